"""The contracts of trackers and evaluations: they look on and change nothing."""

from __future__ import annotations

import copy
import math
import time
from pathlib import Path
from statistics import median

import torch

from qi_core.data import Batch
from qi_core.dice import Dice
from qi_core.evaluation import EvaluationComponent, Validation
from qi_core.objective import Loss, Mean
from qi_core.pictures import picture_grid, save_png
from qi_core.testing import fakes
from qi_core.testing.contract import Contract, contract, place, same
from qi_core.tracker import Change, Ended, Evaluated, Picture, Saved, Start, StepDone, Tracker, TrackerComponent

STEPS = 20
QUICK = 0.05
"""Seconds that a tracker may take for a step (the median)."""


def check_tracker(component: TrackerComponent) -> None:
    """``qi_core.tracker.Tracker``: it takes every event of a run and of its resume, is quick and changes nothing."""
    told = contract(component, "qi_core.tracker.Tracker.tell")
    with place() as here:
        for done in (0, STEPS):  # a run, and the same run resumed
            tracker = component.build(here)
            _tell(told, tracker, Start(folder=here.folder, step=done, steps=2 * STEPS, parameters=9, notes=("cpu",)))
            seconds: list[float] = []
            for step in range(done + 1, done + STEPS + 1):
                began = time.perf_counter()
                _tell(told, tracker, _step(step))
                seconds.append(time.perf_counter() - began)
            slow = median(seconds)
            told.holds(slow < QUICK, f"a step takes it {slow:.3f} s; it is called in the loop's thread, be quick")
            for event in _rare(here.folder, done + STEPS):
                _tell(told, tracker, event)


def check_evaluation(component: EvaluationComponent) -> None:
    """``qi_core.evaluation.Evaluation``: a measurement that leaves the run's randomness and weights as they were.

    The painter is a tiny untrained one: figures are bad ones, and must still be figures.
    """
    told = contract(component, "qi_core.evaluation.Evaluation.evaluate")
    told.holds(component.every >= 0, f"every is {component.every}; wanted 0 (at the end) or more")
    with place() as here:
        painter = fakes.painter(here)
        before = copy.deepcopy(dict(painter.model.state_dict()))
        live = component.build(here)

        def evaluate() -> Evaluated:
            return live.validate(_asked, 7) if isinstance(live, Validation) else live.evaluate(painter, 7)

        with told.leaves_random_numbers_alone("evaluate"):
            found = evaluate()
        told.holds(same(dict(painter.model.state_dict()), before), "it changed the weights")
        told.holds(painter.model.training, "it left the model in another mode than it was in")
        _is_evaluated(told, found)
        again = evaluate()
        told.holds(same(dict(again.scalars), dict(found.scalars)), "the same weights got other figures the second time")


def _asked(batch: Batch, dice: Dice) -> Loss:
    """Stands for an objective, which a validation asks about batches of any type."""
    value = torch.rand((), generator=dice.roll(len(batch)))
    return Loss(value=value, parts={"part": Mean(value * len(batch), torch.tensor(float(len(batch))))})


def _is_evaluated(told: Contract, found: Evaluated) -> None:
    told.holds(found.step == 7, f"it was asked at step 7 and tells of step {found.step}")
    told.holds(bool(found.name), "the name is empty; figures are kept by it")
    told.holds(bool(found.scalars or found.pictures), "it found neither figures nor pictures")
    for name, value in found.scalars.items():
        told.holds(isinstance(value, int | float) and math.isfinite(value), f"the figure {name} is {value!r}")  # pyright: ignore[reportUnnecessaryIsInstance]
    for one in found.pictures:
        image = one.image
        told.holds(
            image.ndim == 3 and image.shape[0] == 3 and image.is_floating_point(),
            f"a picture is {tuple(image.shape)}, {image.dtype}; wanted (3, H, W) of floating point",
        )
        told.holds(float(image.abs().max()) <= 1, "a picture leaves [-1, 1]")
    told.holds(found.path is None, "it sets a path; the loop writes the grid and sets it")


def _tell(told: Contract, tracker: Tracker, event: Start | StepDone | Evaluated | Change | Saved | Ended) -> None:
    before = copy.deepcopy(event)
    with told.leaves_random_numbers_alone(f"tell({type(event).__name__})"):
        tracker.tell(event)
    told.holds(same(event, before), f"it changed the {type(event).__name__} that it was told")


def _step(step: int) -> StepDone:
    seconds = {"data": 0.01, "encode": 0.01, "forward": 0.1, "backward": 0.2, "step": 0.02}
    return StepDone(
        step=step,
        loss=1 / step,
        lr=1e-3,
        grad_norm=math.inf if step == 3 else 0.5,  # a step whose gradients were not finite is told like any other
        samples=4,
        seconds=seconds,
        parts={"loss_t/0.0-0.2": 0.5} if step % 2 else {},
    )


def _rare(folder: Path, step: int) -> list[Evaluated | Change | Saved | Ended]:
    pictures = tuple(
        Picture(image=fakes.picture(8, 12, seed=i).float() / 127.5 - 1, caption=f'the word "AB" 红 [{i}]')
        for i in range(2)
    )
    grid = folder / "preview.png"
    save_png(picture_grid(pictures), grid)
    return [
        Change(step=step, setting='sampler = "heun"'),
        Evaluated(step=step, name="scores", scalars={"exact": 0.25}),
        Evaluated(step=step, name="preview", pictures=pictures, path=grid),
        Saved(step=step, path=folder / "checkpoints" / "step", seconds=0.1),
        Ended(step=step, reason="SIGTERM", seconds=3.0, skipped={"too small": 2}, summary=("scores: exact 0.25",)),
    ]
