"""Adapters: a few trained weights on top of a frozen denoiser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from qi_core.denoiser import DenoiserModule, Sharding
    from qi_core.place import Place


class Adapter(Protocol):
    """A live adapter in its denoiser."""

    def off(self) -> AbstractContextManager[None]:
        """The denoiser computes as if the adapter were not there, inside. Not between a forward and its backward: with
        activation checkpointing the backward pass would compute another network's activations."""
        ...

    def sharding(self, of_model: Sharding) -> Sharding:
        """How the weights of the adapted denoiser may be divided: the model's own as before, and the adapter's."""
        ...

    def notes(self) -> Sequence[str]:
        """What is told when the run starts: what is adapted, and what was left out and why."""
        ...


class AdapterComponent(Protocol):
    """The settings of an adapter. Its weights stand beside those that they adapt, under names of their own."""

    def apply(self, model: DenoiserModule, place: Place) -> Adapter:
        """Freeze the model and put the adapter in, in place; the names of the model's own weights stay as they are.

        The adapted model computes exactly what the model did, unless the settings name weights to start from.
        Raises QiError if nothing matches, or the weights named are of another shape.
        """
        ...

    def merged(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Names and tensors of the plain denoiser with the adapter worked in, out of all tensors of the adapted one.

        Each tensor is made when it is asked for.
        """
        ...

    def export(self, path: Path, tensors: Mapping[str, Tensor], layout: str, dtype: torch.dtype | None) -> None:
        """Write the adapter's weights alone, for others. Raises QiError for a layout that is not known."""
        ...
