"""Evaluations: what is measured of the model now and then."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from qi_core.dice import Dice
    from qi_core.generate import Painter
    from qi_core.objective import Loss
    from qi_core.place import Place
    from qi_core.tracker import Evaluated


class Evaluation(Protocol):
    """A live evaluation. It must not touch the run's randomness or weights. It lives on rank 0 alone, and of the model
    it knows nothing but what the painter draws: that all ranks do."""

    def evaluate(self, painter: Painter, step: int) -> Evaluated:
        """``painter`` draws pictures from the model (its averaged weights) with the run's sampler."""
        ...


@runtime_checkable
class Validation(Protocol):
    """A live evaluation that asks the run's own objective about data that is not trained on. It lives on rank 0 alone;
    all ranks compute the losses that it asks for, each of its part of the batch."""

    gives: type
    """The type of batch that it asks about; it must be what the objective takes."""

    def validate(self, loss: Callable[[Any, Dice], Loss], step: int) -> Evaluated:
        """``loss``: what the objective says of a batch, without gradients, with the weights that are being trained."""
        ...


class EvaluationComponent(Protocol):
    """The settings of an evaluation."""

    @property
    def every(self) -> int:
        """Steps between two; 0: only at the end. A field of the class."""
        ...

    def build(self, place: Place) -> Evaluation | Validation: ...
