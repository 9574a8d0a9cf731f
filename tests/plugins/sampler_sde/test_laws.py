"""What each sampler that adds noise promises of its law: the marginals, the ordinary equation without noise, eq. 8."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import pytest
import torch
from attrs import frozen

from qi_core import Latents, Shift, Transition, flow
from qi_core.testing.fakes import MEAN, STD, normal
from qi_plugins.sampler_flow.samplers import Euler
from qi_plugins.sampler_sde.samplers import Cps, DanceSde, ExactSde, FlowSde
from support.mixture import NOTHING, Mixture, line

Sde: TypeAlias = ExactSde | FlowSde | DanceSde | Cps
SCHEDULES = ("none", 3.0, "qwen-image")
KEEPING = (ExactSde, FlowSde, DanceSde)
"""Those that keep the marginals."""


@frozen(kw_only=True)
class Printed(FlowSde):
    """Eq. 6 as the report prints it, beside eq. 1 with the same t: g = a, drift v + g^2 / (2 t) (x + (1 - t) v)."""

    def transition(self, x: Latents, velocity: torch.Tensor, t: torch.Tensor, t_next: torch.Tensor) -> Transition:
        now, dt = x.per_token(t), x.per_token(t_next - t)
        drift = velocity + self.a**2 / (2 * now) * flow.data_estimate(x.tokens, velocity, now)
        return Transition(mean=x.tokens + dt * drift, std=self.a * (t_next - t).sqrt())


def right(t: float, data: float = STD) -> tuple[float, float]:
    """Mean and variance of x_t where the data is N(1.5, data^2)."""
    return t * MEAN, t**2 * data**2 + (1 - t) ** 2


def moments(sampler: Sde, data: float = STD, start: float = 0.0, end: float = 1.0) -> tuple[float, float]:
    """Mean and variance at ``end`` of a trajectory that has the right ones at ``start``; exact, no draws.

    On N(1.5, data^2) each step is linear in the state: what it does to two states tells what it does to any. All steps
    are asked about at once, a sample each.
    """
    times = sampler.times([1024])[:, 0]
    times = times[(times >= start) & (times <= end)]
    now, then = times[:-1], times[1:]
    probes = Latents(tokens=torch.tensor([0.0, 1.0]).double().repeat(len(now))[:, None], grids=((1, 1, 2),) * len(now))
    field = Mixture(means=(MEAN,), stds=(data,), weights=(1.0,))
    law = sampler.transition(probes, field.velocity(probes, now, NOTHING).tokens, now, then)
    mean, variance = right(float(times[0]), data)
    for (offset, moved), std in zip(law.mean.reshape(-1, 2).tolist(), law.std.tolist(), strict=True):
        mean, variance = offset + (moved - offset) * mean, (moved - offset) ** 2 * variance + std**2
    return mean, variance


@pytest.mark.parametrize("shift", SCHEDULES)
@pytest.mark.parametrize("kind", KEEPING)
def test_the_mean_and_variance_of_a_gaussian_are_kept(kind: type[Sde], shift: Shift) -> None:
    mean, variance = moments(kind(steps=1000, shift=shift))
    assert mean == pytest.approx(MEAN, abs=1e-3)
    assert variance == pytest.approx(STD**2, abs=3e-3)


@pytest.mark.parametrize("shift", SCHEDULES)
@pytest.mark.parametrize("kind", KEEPING)
def test_the_distribution_of_two_modes_is_kept(kind: type[Sde], shift: Shift) -> None:
    assert Mixture().distance(drawn(kind(steps=200, shift=shift))) < 0.014


def drawn(sampler: Sde, count: int = 20_000) -> torch.Tensor:
    generators = [torch.Generator().manual_seed(1)]
    return sampler.sample(Mixture(), line(normal(count, seed=0)), NOTHING, generators=generators).tokens


@pytest.mark.parametrize("shift", SCHEDULES)
def test_the_equation_as_it_is_printed_keeps_neither(shift: Shift) -> None:
    end = 0.98 if shift == "qwen-image" else 0.99
    mean, variance = moments(Printed(steps=2000, shift=shift), start=0.01, end=end)
    assert mean == pytest.approx(2.75, abs=0.2), "it ought to be 1.47 or 1.485"
    assert variance == pytest.approx(0.81, abs=0.2), "it ought to be 0.24 or 0.245"
    assert moments(FlowSde(steps=2000, shift=shift), start=0.01, end=end) == pytest.approx(right(end), abs=3e-3)


def test_cps_takes_variance_away_and_more_steps_do_not_bring_it_back() -> None:
    variances = [moments(Cps(steps=steps, shift="none", eta=0.7))[1] for steps in (50, 200, 800)]
    assert max(variances) < 0.18
    assert variances[2] - variances[1] < 0.01
    assert Mixture().distance(drawn(Cps(steps=200, shift="none", eta=0.7))) > 0.03


@pytest.mark.parametrize("kind", KEEPING)
def test_the_weak_order_is_one(kind: type[Sde]) -> None:
    """From t = 0.2: at t = 0 the noise of flow-sde is infinite, see below."""
    errors = [abs(moments(kind(steps=steps, shift="none"), start=0.199)[1] - STD**2) for steps in (40, 160)]
    assert math.log(errors[0] / errors[1], 4) == pytest.approx(1, abs=0.15)


def test_from_the_very_start_the_exact_step_keeps_its_order_and_euler_maruyamas_does_not() -> None:
    orders: dict[type[Sde], float] = {}
    for kind in (ExactSde, FlowSde):
        errors = [abs(moments(kind(steps=steps, shift="none"))[1] - STD**2) for steps in (1000, 4000)]
        orders[kind] = math.log(errors[0] / errors[1], 4)
    assert orders[ExactSde] == pytest.approx(1, abs=0.1)
    assert orders[FlowSde] < 0.7, "its first step adds a variance of a^4 / 4, which fades as t^(a^2)"


@pytest.mark.parametrize(
    ("sampler", "variance"),
    [
        (ExactSde(steps=10, shift=3.0, a=0.7), 0.0000),
        (FlowSde(steps=10, shift=3.0, a=0.7), 0.0518),
        (DanceSde(steps=10, shift=3.0, eta=0.7), 0.2301),
        (Cps(steps=10, shift=3.0, eta=0.7), 0.0000),
    ],
)
def test_how_much_noise_ten_steps_leave_on_data_that_has_none(sampler: Sde, variance: float) -> None:
    assert moments(sampler, data=0.01)[1] == pytest.approx(variance, abs=2e-4)


@pytest.mark.parametrize("shift", SCHEDULES)
@pytest.mark.parametrize("sampler", [ExactSde(a=0), FlowSde(a=0), DanceSde(eta=0), Cps(eta=0)])
def test_without_noise_each_is_the_ordinary_equation_to_the_last_bit(sampler: Any, shift: Shift) -> None:
    from attrs import evolve

    noise, generators = line(normal(50, seed=3)), [torch.Generator()]
    end = evolve(sampler, shift=shift).sample(Mixture(), noise, NOTHING, generators=generators)
    straight = Euler(steps=sampler.steps, shift=shift).sample(Mixture(), noise, NOTHING)
    assert torch.equal(end.tokens, straight.tokens)


def test_the_exact_step_tends_to_euler_maruyamas() -> None:
    """The same equation: coefficients differ by O(dt) of themselves."""
    for dt in (1e-2, 1e-3):
        t = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
        for one, other in zip(ExactSde().fresh(t, t + dt), FlowSde().fresh(t, t + dt), strict=True):
            assert ((one / other - 1).abs() < 12 * dt).all()


def test_the_exact_step_is_the_solution_of_its_equation() -> None:
    """rho by quadrature of g^2 / (1 - s)^2, and 1 - rho^2 + rho^2 = 1: new noise makes up for the old."""
    t, t_next, a = 0.3, 0.8, 0.9
    s = torch.linspace(t, t_next, 200_001, dtype=torch.float64)
    rho = math.exp(-0.5 * torch.trapezoid(a**2 * (1 - s) / s / (1 - s) ** 2, s).item())
    ends = (torch.tensor([value], dtype=torch.float64) for value in (t, t_next))
    taken, std = ExactSde(a=a).fresh(*ends)
    assert float(taken) == pytest.approx((1 - t_next) * (1 - rho))
    assert float(std) == pytest.approx((1 - t_next) * math.sqrt(1 - rho**2))


@pytest.mark.parametrize("sampler", [ExactSde(), FlowSde(), DanceSde(), Cps(), ExactSde(a=5.0), Cps(eta=1)])
@pytest.mark.parametrize(("t", "t_next"), [(0.0, 0.1), (0.9, 1.0), (0.0, 1.0), (0.0, 1e-6), (1 - 2e-7, 1.0)])
def test_both_ends_are_finite(sampler: Sde, t: float, t_next: float) -> None:
    law = sampler.transition(line(normal(5, seed=0)), normal(5, 1, seed=1), torch.tensor([t]), torch.tensor([t_next]))
    assert law.mean.isfinite().all()
    assert law.std.isfinite().all()
    assert (law.std == 0).all() == (t_next == 1 and isinstance(sampler, ExactSde | Cps))


# Equation 8.

X = Latents(tokens=normal(12, 3, seed=1), grids=((1, 2, 3), (1, 6, 1)))
V, V_REF = normal(12, 3, seed=2), normal(12, 3, seed=3)


@pytest.mark.parametrize("t", [0.2, 0.3, 0.8])
@pytest.mark.parametrize(
    ("sampler", "g"),
    [(FlowSde(a=0.7), lambda t: 0.7 * math.sqrt((1 - t) / t)), (DanceSde(eta=0.3), lambda t: 0.3)],
)
def test_the_kl_is_equation_8(sampler: Sde, g: Callable[[float], float], t: float) -> None:
    """dt / 2 (g t / (2 (1 - t)) + 1 / g)^2 |v - v_ref|^2, the mean over values. At t = 0.5 two conventions agree."""
    times = torch.full((2,), t), torch.full((2,), t + 0.05)
    law, other = (sampler.transition(X, v, *times) for v in (V, V_REF))
    factor = 0.05 / 2 * (g(t) * t / (2 * (1 - t)) + 1 / g(t)) ** 2
    expected = factor * X.sample_mean((V - V_REF).square())
    assert torch.allclose(flow.gaussian_kl(X, law.mean, other.mean, law.std), expected, rtol=1e-4)


@pytest.mark.parametrize("sampler", [ExactSde(), FlowSde(), DanceSde(), Cps()])
def test_the_kl_is_what_draws_lose_on_average(sampler: Sde) -> None:
    times = torch.full((2,), 0.3), torch.full((2,), 0.35)
    law, other = (sampler.transition(X, v, *times) for v in (V, V_REF))
    many = 4000
    draws = Latents(tokens=normal(many * 12, 3, seed=4), grids=X.grids * many)
    mean, wrong, std = law.mean.repeat(many, 1), other.mean.repeat(many, 1), law.std.repeat(many)
    draws = draws.with_tokens(mean + draws.per_token(std) * draws.tokens)
    lost = (flow.log_prob(draws, mean, std) - flow.log_prob(draws, wrong, std)).reshape(many, 2)
    found, spread = lost.mean(dim=0), lost.std(dim=0) / many**0.5
    assert ((found - flow.gaussian_kl(X, law.mean, other.mean, law.std)).abs() < 3 * spread).all()
