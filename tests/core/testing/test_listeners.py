"""Wrong trackers and evaluations are told what they break."""

from __future__ import annotations

import math
import random
import time
from typing import Any

import pytest
import torch
from attrs import evolve, frozen

from qi_core import Evaluated, Painter, Picture, Place, StepDone
from qi_core.testing import check_evaluation, check_tracker


class Quiet:
    """A live tracker that keeps its contract."""

    def __init__(self, place: Place) -> None:
        self.place = place

    def tell(self, event: Any) -> None:
        if isinstance(event, StepDone):
            self.step(event)
        if isinstance(event, Evaluated):
            self.evaluated(event)

    def step(self, event: StepDone) -> None: ...

    def evaluated(self, event: Evaluated) -> None: ...


@frozen(kw_only=True)
class Tracker:
    kind: type[Quiet] = Quiet

    def build(self, place: Place) -> Quiet:
        return self.kind(place)


class Scales(Quiet):
    def evaluated(self, event: Evaluated) -> None:
        for picture in event.pictures:
            picture.image.add_(1).div_(2)


class Slow(Quiet):
    def step(self, event: StepDone) -> None:
        time.sleep(0.06)


class Picks(Quiet):
    def step(self, event: StepDone) -> None:
        random.random()


class Adds(Quiet):
    def step(self, event: StepDone) -> None:
        event.parts["total"] = event.loss  # type: ignore[index]


@pytest.mark.parametrize(
    ("kind", "broken"),
    [
        (Scales, "changed the Evaluated"),
        (Slow, "be quick"),
        (Picks, r"tell\(StepDone\) draws from the global generator of random"),
        (Adds, "changed the StepDone"),
    ],
)
def test_a_wrong_tracker_is_told(kind: type[Quiet], broken: str) -> None:
    check_tracker(Tracker())
    with pytest.raises(AssertionError, match=broken):
        check_tracker(Tracker(kind=kind))


def test_a_tracker_that_a_step_without_finite_gradients_breaks_is_told() -> None:
    class Counts(Quiet):
        def step(self, event: StepDone) -> None:
            int(event.grad_norm)

    with pytest.raises(OverflowError):
        check_tracker(Tracker(kind=Counts))


@frozen(kw_only=True)
class Brightness:
    """An evaluation that keeps its contract, and is its own component."""

    every: int = 0

    def build(self, place: Place) -> Brightness:
        return self

    def evaluate(self, painter: Painter, step: int) -> Evaluated:
        images = painter.paint(["a", "b"], [(4, 6), (2, 2)])
        return Evaluated(
            step=step,
            name="brightness",
            scalars={"mean": float(images[0].mean())},
            pictures=tuple(Picture(image=image, caption="") for image in images),
        )


class Draws(Brightness):
    def evaluate(self, painter: Painter, step: int) -> Evaluated:
        torch.rand(1)
        return super().evaluate(painter, step)


class Perturbs(Brightness):
    def evaluate(self, painter: Painter, step: int) -> Evaluated:
        with torch.no_grad():
            next(painter.model.parameters()).add_(1)
        return super().evaluate(painter, step)


class LeavesEval(Brightness):
    def evaluate(self, painter: Painter, step: int) -> Evaluated:
        painter.model.eval()
        return super().evaluate(painter, step)


class NoFigure(Brightness):
    def evaluate(self, painter: Painter, step: int) -> Evaluated:
        return evolve(super().evaluate(painter, step), scalars={"mean": math.nan})


class Bytes(Brightness):
    def evaluate(self, painter: Painter, step: int) -> Evaluated:
        picture = Picture(image=torch.zeros(3, 2, 2, dtype=torch.uint8), caption="")
        return evolve(super().evaluate(painter, step), pictures=(picture,))


class OtherStep(Brightness):
    def evaluate(self, painter: Painter, step: int) -> Evaluated:
        return super().evaluate(painter, 0)


class Wanders(Brightness):
    def evaluate(self, painter: Painter, step: int) -> Evaluated:
        return evolve(super().evaluate(painter, step), scalars={"clock": time.perf_counter()})


@pytest.mark.parametrize(
    ("component", "broken"),
    [
        (Draws(), "global generator of torch"),
        (Perturbs(), "changed the weights"),
        (LeavesEval(), "left the model in another mode"),
        (NoFigure(), "the figure mean is nan"),
        (Bytes(), r"torch.uint8; wanted \(3, H, W\) of floating point"),
        (OtherStep(), "asked at step 7 and tells of step 0"),
        (Wanders(), "other figures the second time"),
        (Brightness(every=-1), "every is -1"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_wrong_evaluation_is_told(component: Brightness, broken: str) -> None:
    check_evaluation(Brightness())
    with pytest.raises(AssertionError, match=broken):
        check_evaluation(component)
