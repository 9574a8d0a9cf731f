"""Parallel strategies: where the model lives and how a step is carried out.

*Ranks* are the processes of a run. Those that compute one copy of the model together (tensor parallelism) are one
*replica*; every replica takes its own part of each batch. Ranks of one replica are neighbours.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol, TypeVar, runtime_checkable

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from qi_core.denoiser import DenoiserModule, Sharding
    from qi_core.shards import Held

T = TypeVar("T")


class Team(Protocol):
    """The processes of a run. Every call is made by all of them, in the same order."""

    @property
    def rank(self) -> int: ...

    @property
    def ranks(self) -> int: ...

    def gather(self, item: T) -> list[T]:
        """What each rank gives, in the order of ranks, to all of them. For small things."""
        ...

    def send(self, item: T) -> T:
        """What rank 0 gives, to all of them."""
        ...

    def apart(self) -> Team:
        """The same processes on a line of their own, for another thread."""
        ...


class Strategy(Protocol):
    """A live strategy."""

    @property
    def device(self) -> torch.device: ...

    @property
    def dtype(self) -> torch.dtype:
        """In which frozen parts keep their weights and matrix products are computed."""
        ...

    @property
    def team(self) -> Team:
        """All processes. Rank 0 writes logs and checkpoints."""
        ...

    @property
    def replica(self) -> int:
        """Number of the replica that this rank belongs to."""
        ...

    @property
    def replicas(self) -> int: ...

    @property
    def timeout(self) -> float:
        """Seconds without progress in a step after which a rank counts as hung; 0: it is not watched."""
        ...

    def place(self, model: DenoiserModule, sharding: Sharding | None = None) -> DenoiserModule:
        """The model where it will be trained, divided or compiled as the settings say. All ranks give it with the same
        weights. ``sharding``: how it may be divided, where an adapter makes it another than the model's own."""
        ...

    def held(self, model: DenoiserModule) -> Held:
        """What this rank holds of a model that was placed."""
        ...

    def autocast(self) -> AbstractContextManager[None]:
        """Around every forward pass."""
        ...

    def backward(self, loss: Tensor, *, last: bool = True) -> None:
        """Gradients of a scalar; added to what is there, and summed over the replicas. ``last``: this was the update's
        last micro-batch, so that sums over ranks may wait for it. Every replica calls it equally often."""
        ...

    def clip(self, parameters: Iterable[nn.Parameter], limit: float) -> float:
        """Scale gradients to at most ``limit`` (0: don't), over all ranks; the norm before."""
        ...

    def sum(self, values: Tensor) -> Tensor:
        """The sum over replicas, the same on all ranks."""
        ...


@runtime_checkable
class Dividing(Protocol):
    """A live strategy under which no device need ever hold a whole model."""

    @property
    def cradle(self) -> torch.device:
        """Where a model is built that ``place`` will divide and bring to the strategy's device."""
        ...


class ParallelComponent(Protocol):
    """The settings of a strategy."""

    def build(self) -> Strategy:
        """Join the other ranks, choose the device. Raises QiError where the hardware lacks what was asked for."""
        ...
