"""Moving averages of speed: over the last steps alone, and over the time that steps took alone."""

from __future__ import annotations

import pytest

from qi_core import StepDone
from qi_core.meter import Meter


def done(step: int, seconds: dict[str, float], samples: int = 8) -> StepDone:
    return StepDone(step=step, loss=0.5, lr=0.1, grad_norm=1.0, samples=samples, seconds=seconds)


def test_before_the_first_step_nothing_is_known() -> None:
    meter = Meter()
    assert (meter.samples_per_second, meter.seconds_per_step, meter.shares) == (0.0, 0.0, {})


def test_only_the_last_steps_count() -> None:
    meter = Meter(window=2)
    for step, seconds in enumerate([100.0, 1.0, 3.0]):  # the first step of a run is slow: compiling, warming up
        meter.add(done(step, {"forward": seconds}))
    assert meter.samples_per_second == pytest.approx(16 / 4)
    assert meter.seconds_per_step == pytest.approx(2.0)


def test_shares_say_where_the_time_went() -> None:
    meter = Meter()
    meter.add(done(1, {"data": 1.0, "forward": 2.0}))
    meter.add(done(2, {"data": 0.0, "forward": 4.0, "step": 1.0}))
    assert meter.shares == pytest.approx({"data": 0.125, "forward": 0.75, "step": 0.125})


def test_steps_that_took_no_time_do_not_divide_by_zero() -> None:
    meter = Meter()
    meter.add(done(1, {"forward": 0.0}))
    assert (meter.samples_per_second, meter.shares) == (0.0, {})
