"""Several ranks in one process, a thread each: what they do together is real, and a test needs no launcher."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from qi_core.testing.fakes import OneCpu
from qi_core.testing.team import Thread, together

T = TypeVar("T")


class Told:
    """``qi_core.parallel.Team`` of threads. Items are pickled, as between processes."""

    def __init__(self, team: Thread) -> None:
        self._team, self.rank, self.ranks = team, team.rank, team.ranks
        self.sent = 0
        """Bytes that this rank gave the others."""

    def gather(self, item: T) -> list[T]:
        """See ``Team``."""
        own = pickle.dumps(item)
        self.sent += len(own)
        return [pickle.loads(each) for each in self._team.gather(own)]

    def send(self, item: T) -> T:
        """See ``Team``."""
        return self.gather(item)[0]

    def apart(self) -> Told:
        """See ``Team``."""
        return Told(self._team.apart())


class Replica(OneCpu):
    """``qi_core.parallel.Strategy``: plain data parallelism. With ``tensor`` > 1 so many ranks do the same."""

    def __init__(self, team: Told, tensor: int = 1) -> None:
        self.team = team  # type: ignore[assignment]
        self.replica, self.replicas = team.rank // tensor, team.ranks // tensor
        self._tensor = tensor

    def clip(self, parameters: Iterable[nn.Parameter], limit: float) -> float:
        """See ``Strategy.clip``. Gradients are summed here, once an update."""
        own = [p for p in parameters if p.grad is not None]
        for parameter, whole in zip(own, self._sum([p.grad for p in own]), strict=True):
            parameter.grad = whole
        return super().clip(own, limit)

    def sum(self, values: Tensor) -> Tensor:
        """See ``Strategy.sum``."""
        return self._sum([values])[0]

    def _sum(self, values: list[Any]) -> list[Tensor]:
        each = self.team.gather([value.numpy() for value in values])[:: self._tensor]
        return [sum(map(torch.from_numpy, own), torch.zeros(())) for own in zip(*each, strict=True)]


def on_ranks(ranks: int, work: Callable[[Replica], T], tensor: int = 1) -> list[T | Exception]:
    """What ``work`` gives on each rank, or raises there."""
    return together(ranks, lambda team: work(Replica(Told(team), tensor)))


def all_well(found: list[T | Exception]) -> list[T]:
    """None of them raised."""
    for one in found:
        if isinstance(one, Exception):
            raise one
    return found  # type: ignore[return-value]
