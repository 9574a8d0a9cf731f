"""Samplers solve dx = v dt: on a Gaussian whose velocity field is known they end at the exact flow map."""

from __future__ import annotations

import math

import pytest
import torch

from qi_core import Condition, Latents
from qi_plugins.sampler_flow.samplers import Euler, Heun

MEAN, STD = 1.5, 0.5


class Gaussian:
    """The exact velocity for data ~ N(1.5, 0.25); another mean and variance than the noise's, so signs show."""

    def __init__(self) -> None:
        self.calls = 0

    def velocity(self, latents: Latents, t: torch.Tensor, condition: Condition) -> Latents:
        self.calls += 1
        t_tokens = latents.per_token(t).to(latents.tokens.dtype)
        variance = t_tokens**2 * STD**2 + (1 - t_tokens) ** 2
        centred = latents.tokens - t_tokens * MEAN
        return latents.with_tokens(MEAN + (t_tokens * STD**2 - (1 - t_tokens)) / variance * centred)


def error(sampler: Euler | Heun) -> float:
    """Largest distance from the exact flow map, which takes noise n to MEAN + STD n."""
    noise = torch.linspace(-2, 2, 9)[:, None]
    start = Latents(tokens=noise, grids=((1, 1, 9),))
    nothing = Condition(text=torch.zeros(0, 1), lengths=(0,))
    return float((sampler.sample(Gaussian(), start, nothing).tokens - (MEAN + STD * noise)).abs().max())


@pytest.mark.parametrize(("kind", "order"), [(Euler, 1), (Heun, 2)])
def test_the_order_of_convergence(kind: type[Euler | Heun], order: int) -> None:
    coarse, fine = error(kind(steps=16, shift="none")), error(kind(steps=64, shift="none"))
    assert math.log(coarse / fine, 4) == pytest.approx(order, abs=0.25)


@pytest.mark.parametrize("sampler", [Euler(steps=200), Heun(steps=40)])
def test_the_released_times_lead_to_the_data_too(sampler: Euler | Heun) -> None:
    assert error(sampler) < 0.02


@pytest.mark.parametrize(("sampler", "calls"), [(Euler(steps=5), 5), (Heun(steps=5), 9)])
def test_how_often_the_denoiser_is_called(sampler: Euler | Heun, calls: int) -> None:
    field = Gaussian()
    start = Latents(tokens=torch.zeros(1, 1), grids=((1, 1, 1),))
    sampler.sample(field, start, Condition(text=torch.zeros(0, 1), lengths=(0,)))
    assert field.calls == calls


def test_a_sample_does_not_depend_on_its_neighbours() -> None:
    noise = torch.randn(9, 2)
    both = Latents(tokens=noise, grids=((1, 1, 3), (1, 2, 3)))
    nothing = Condition(text=torch.zeros(0, 1), lengths=(0, 0))
    together = Euler(steps=6).sample(Gaussian(), both, nothing).split()
    alone = Euler(steps=6).sample(Gaussian(), both.split()[1], nothing.split()[1])
    assert torch.equal(together[1].tokens, alone.tokens)


@pytest.mark.parametrize("kind", [Euler, Heun])
@pytest.mark.parametrize("factor", [0.0, -1.0, math.nan])
def test_a_shift_by_a_factor_that_moves_time_nowhere_is_refused(kind: type[Euler | Heun], factor: float) -> None:
    assert kind(shift=0.5).shift == 0.5
    with pytest.raises(ValueError, match="'shift' must be > 0"):
        kind(shift=factor)
