"""Optimizers: the update and its schedule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor, nn

    from qi_core.shards import Held


class Optimizer(Protocol):
    """A live optimizer over the parameters of one model."""

    lr: float
    """Peak learning rate; may be changed while the run goes on."""

    def rate(self, step: int) -> float:
        """The learning rate of step ``step`` (counted from 0): peak times schedule."""
        ...

    def step(self, step: int) -> None:
        """Update with the gradients as they are (already clipped), at ``rate(step)``; then clear them."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """Its state, flat, named ``<slot>/<parameter>`` (``exp_avg/img_in.weight``): each a number, or laid out as this
        rank's piece of the parameter is."""
        ...

    def load(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Take a saved state, of whole tensors. Raises QiError if a parameter's state is missing or misshapen."""
        ...

    def state(self) -> dict[str, Any]:
        """The rest of its state, as JSON values (counters; settings such as lr come from the recipe)."""
        ...


class OptimizerComponent(Protocol):
    """The settings of an optimizer."""

    def build(self, model: nn.Module, steps: int, held: Held | None = None) -> Optimizer:
        """``steps``: length of the run, for schedules that end. ``held``: how the model is divided over ranks, unless
        every rank holds all of it."""
        ...
