"""Samplers solve dx = v dt: where the velocity is known exactly, their errors fall as their order says."""

from __future__ import annotations

import math
from functools import cache
from typing import TypeAlias

import pytest
import torch

from qi_core import Latents, flow
from qi_core.testing import check_component, check_sampler
from qi_core.testing.fakes import MEAN, STD, GaussianField
from qi_plugins.sampler_flow.multistep import AdamsBashforth
from qi_plugins.sampler_flow.samplers import Euler, Heun
from support.mixture import NOTHING, Mixture, line

Solver: TypeAlias = Euler | Heun | AdamsBashforth
NOISE = torch.linspace(-2, 2, 81)


def error_on_a_gaussian(sampler: Solver) -> float:
    """Largest distance from the flow map, which takes noise n to MEAN + STD n."""
    end = sampler.sample(GaussianField(), line(NOISE), NOTHING).tokens[:, 0]
    return float((end - (MEAN + STD * NOISE)).abs().max())


@cache
def flow_map_of_the_mixture() -> torch.Tensor:
    """Of NOISE, by so many steps that only float32 is left of the error: the flow keeps quantiles in one dimension."""
    low, high = torch.full_like(NOISE, -6.0, dtype=torch.float64), torch.full_like(NOISE, 6.0, dtype=torch.float64)
    wanted = torch.special.ndtr(NOISE.double())
    for _ in range(60):
        middle = (low + high) / 2
        below = Mixture().cdf(middle) < wanted
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return low


def error_on_a_mixture(sampler: Solver) -> float:
    """Mean distance from the flow map of two modes, whose field bends where they part."""
    end = sampler.sample(Mixture(), line(NOISE), NOTHING).tokens[:, 0]
    return float((end - flow_map_of_the_mixture()).abs().mean())


def order(kind: type[Solver], **settings: int) -> int:
    return settings.get("order", {Euler: 1, Heun: 2}.get(kind, 0))


SOLVERS = [(Euler, {}), (Heun, {}), (AdamsBashforth, {"order": 2}), (AdamsBashforth, {"order": 3})]


@pytest.mark.parametrize(("kind", "settings"), SOLVERS)
def test_the_order_of_convergence_on_a_linear_field(kind: type[Solver], settings: dict[str, int]) -> None:
    errors = [error_on_a_gaussian(kind(steps=n, shift="none", **settings)) for n in (16, 64)]
    assert math.log(errors[0] / errors[1], 4) == pytest.approx(order(kind, **settings), abs=0.4)


@pytest.mark.parametrize(("kind", "settings"), SOLVERS)
@pytest.mark.parametrize("shift", ["none", 3.0])
def test_the_order_of_convergence_on_a_field_that_is_not_linear(
    kind: type[Solver], settings: dict[str, int], shift: float
) -> None:
    errors = [error_on_a_mixture(kind(steps=n, shift=shift, **settings)) for n in (64, 256)]
    assert math.log(errors[0] / errors[1], 4) == pytest.approx(order(kind, **settings), abs=0.4)


def dpm_solver(steps: int) -> torch.Tensor:
    """DPM-Solver++(2M), to compare with (Lu et al., arXiv 2211.01095, algorithm 2): estimates of the data, extrapolated
    in lambda = log(t / (1 - t)); first order in the steps that touch an infinite lambda."""
    times = flow.time_grid(steps, [1024], "qwen-image")[:, 0].double()
    h, x, data = torch.logit(times).diff(), NOISE.double(), list[torch.Tensor]()
    for i in range(steps):
        t, dt = times[i], times[i + 1] - times[i]
        v = Mixture().velocity(line(x), t[None], NOTHING).tokens[:, 0]
        data.append(x + (1 - t) * v)
        x = x + dt * v
        if 1 < i < steps - 1:
            x = x + dt / (1 - t) * h[i] / (2 * h[i - 1]) * (data[-1] - data[-2])
    return x


@pytest.mark.parametrize(("steps", "times_nearer"), [(16, 5), (32, 8), (64, 8)])
def test_it_is_nearer_than_a_solver_in_log_odds_at_the_same_cost(steps: int, times_nearer: int) -> None:
    ours = error_on_a_mixture(AdamsBashforth(steps=steps, shift="qwen-image"))
    theirs = float((dpm_solver(steps) - flow_map_of_the_mixture()).abs().mean())
    assert times_nearer * ours < theirs


@pytest.mark.parametrize(("kind", "settings"), SOLVERS)
def test_the_contract(kind: type[Solver], settings: dict[str, int]) -> None:
    check_component(kind)
    check_sampler(kind(**settings))  # type: ignore[arg-type]
    check_sampler(kind(steps=200, **settings), tolerance=0.02)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("sampler", "calls"),
    [
        (Euler(steps=5), 5),
        (Heun(steps=5), 9),
        (AdamsBashforth(steps=5), 5),
        (AdamsBashforth(steps=5, order=3), 6),
        (AdamsBashforth(steps=1, order=3), 1),
    ],
)
def test_how_often_the_denoiser_is_called_and_never_at_the_data(sampler: Solver, calls: int) -> None:
    asked: list[float] = []

    class Asked(GaussianField):
        def velocity(self, latents: Latents, t: torch.Tensor, condition: object) -> Latents:
            asked.append(float(t))
            return super().velocity(latents, t, NOTHING)

    sampler.sample(Asked(), line(NOISE), NOTHING)
    assert len(asked) == calls
    assert max(asked) < 1, "at t = 1 there is no noise left to tell"


@pytest.mark.parametrize("kind", [Euler, Heun, AdamsBashforth])
@pytest.mark.parametrize("factor", [0.0, -1.0, math.nan])
def test_a_shift_by_a_factor_that_moves_time_nowhere_is_refused(kind: type[Solver], factor: float) -> None:
    assert kind(shift=0.5).shift == 0.5
    with pytest.raises(ValueError, match="'shift' must be > 0"):
        kind(shift=factor)
