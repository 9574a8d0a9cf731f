"""Objectives: from a batch and a denoiser to a loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

from attrs import field, frozen

if TYPE_CHECKING:
    from torch import Tensor

    from qi_core.denoiser import DenoiserModule
    from qi_core.dice import Dice
    from qi_core.models import Models

B_contra = TypeVar("B_contra", contravariant=True)


@frozen
class Mean:
    """A mean that can be merged with others: micro-batches and ranks add totals and counts apart."""

    total: Tensor
    """Scalar, detached."""
    count: Tensor
    """Scalar."""

    def merged(self, other: Mean) -> Mean:
        """The mean over both."""
        return Mean(self.total + other.total, self.count + other.count)


@frozen(kw_only=True, eq=False)
class Loss:
    """What a step minimises, and named parts of it to look at."""

    value: Tensor
    """Scalar with a graph: the mean over the micro-batch's samples."""
    parts: Mapping[str, Mean] = field(factory=dict)
    """Figures to log, by name."""


class Objective(Protocol[B_contra]):
    """Takes a batch of B, gives a Loss. The loss of a stage stays visible in its objective."""

    takes: ClassVar[type]
    """The type of batch it wants; a recipe whose source gives another is refused."""

    def prepare(self, batch: B_contra, models: Models, dice: Dice) -> Any:
        """Everything that needs no gradient (timed apart from the forward pass): encoding, and what frozen or older
        weights say (``models.as_of``). An objective that needs such weights names them: ``qi_core.Shadowed``."""
        ...

    def loss(self, denoiser: DenoiserModule, prepared: Any, dice: Dice) -> Loss:
        """The loss of what ``prepare`` gave. All randomness, here and there, comes from ``dice``, per slot."""
        ...
