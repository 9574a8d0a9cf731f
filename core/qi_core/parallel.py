"""Parallel strategies: where the model lives and how a step is carried out."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from qi_core.data import Batch
    from qi_core.denoiser import DenoiserModule

    AnyBatch = TypeVar("AnyBatch", bound=Batch)


class Strategy(Protocol):
    """A live strategy."""

    @property
    def device(self) -> torch.device: ...

    @property
    def dtype(self) -> torch.dtype:
        """In which frozen parts keep their weights and matrix products are computed."""
        ...

    @property
    def main(self) -> bool:
        """Whether this process writes logs and checkpoints."""
        ...

    def place(self, model: DenoiserModule) -> DenoiserModule:
        """The model where it will be trained, divided or compiled as the settings say."""
        ...

    def split(self, batch: AnyBatch) -> AnyBatch:
        """This rank's part of the global batch."""
        ...

    def autocast(self) -> AbstractContextManager[None]:
        """Around every forward pass."""
        ...

    def backward(self, loss: Tensor) -> None:
        """Gradients of a scalar; added to what is there."""
        ...

    def clip(self, parameters: Iterable[nn.Parameter], limit: float) -> float:
        """Scale gradients to at most ``limit`` (0: don't), over all ranks; the norm before."""
        ...

    def mean(self, values: Tensor) -> Tensor:
        """Sum over ranks of (K, 2) rows of (total, count), then (K,) means."""
        ...


class ParallelComponent(Protocol):
    """The settings of a strategy."""

    def build(self) -> Strategy:
        """Join the other ranks, choose the device. Raises QiError where the hardware lacks what was asked for."""
        ...
