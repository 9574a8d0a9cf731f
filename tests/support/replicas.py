"""Several ranks in one process, a thread each: what they do together is real, and a test needs no launcher."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from qi_core.testing.fakes import OneCpu

T = TypeVar("T")

PATIENCE = 20.0
"""Seconds that a rank waits for the others, before the test fails."""


class Table:
    """Where ranks lay down what the others are to have."""

    def __init__(self, ranks: int) -> None:
        self.ranks = ranks
        self.items: list[Any] = [None] * ranks
        self.barrier = threading.Barrier(ranks, timeout=PATIENCE)


class Threads:
    """``qi_core.parallel.Team`` of threads. Items are pickled, as between processes."""

    def __init__(self, table: Table, rank: int) -> None:
        self._table, self.rank, self.ranks = table, rank, table.ranks
        self.gathered = 0
        """Bytes that this rank gave the others."""

    def gather(self, item: T) -> list[T]:
        """See ``Team``."""
        sent = pickle.dumps(item)
        self.gathered += len(sent)
        self._table.items[self.rank] = sent
        self._table.barrier.wait()
        found = [pickle.loads(each) for each in self._table.items]
        self._table.barrier.wait()
        return found

    def send(self, item: T) -> T:
        """See ``Team``."""
        return self.gather(item)[0]

    def apart(self) -> Threads:
        """See ``Team``."""
        raise NotImplementedError


class Replica(OneCpu):
    """``qi_core.parallel.Strategy``: plain data parallelism. With ``tensor`` > 1 so many ranks do the same."""

    def __init__(self, team: Threads, tensor: int = 1) -> None:
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
    """What ``work`` gives on each rank, or raises there. All come to an end."""
    table = Table(ranks)

    def rank(number: int) -> T | Exception:
        try:
            return work(Replica(Threads(table, number), tensor))
        except Exception as error:
            return error

    with ThreadPoolExecutor(ranks) as pool:
        return list(pool.map(rank, range(ranks)))


def all_well(found: list[T | Exception]) -> list[T]:
    """None of them raised."""
    for one in found:
        if isinstance(one, Exception):
            raise one
    return found  # type: ignore[return-value]
