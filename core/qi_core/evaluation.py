"""Evaluations: what is measured of the model now and then."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from qi_core.generate import Painter
    from qi_core.place import Place
    from qi_core.tracker import Evaluated


class Evaluation(Protocol):
    """A live evaluation. It must not touch the run's randomness or weights."""

    def evaluate(self, painter: Painter, step: int) -> Evaluated:
        """``painter`` draws pictures from the model (its averaged weights) with the run's sampler."""
        ...


class EvaluationComponent(Protocol):
    """The settings of an evaluation."""

    @property
    def every(self) -> int:
        """Steps between two; 0: only at the end. A field of the class."""
        ...

    def build(self, place: Place) -> Evaluation: ...
