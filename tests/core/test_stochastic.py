"""Trajectories with a Gaussian law at each step, and windows: which steps add noise."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from qi_core import Latents, QiError, Step, Window, flow
from qi_core.stochastic import integrate, step_law
from qi_core.testing.fakes import GaussianField, normal
from support.mixture import NOTHING
from support.rollouts import Wandering


def steps_of(window: Window, steps: int = 10, group: int = 0, phase: int = 0) -> list[int]:
    return window.mask(steps, [group], phase)[:, 0].nonzero()[:, 0].tolist()


def test_without_a_length_every_step_adds_noise() -> None:
    assert steps_of(Window()) == list(range(10))


def test_a_fixed_window_stays() -> None:
    window = Window(length=3, first=2)
    assert {tuple(steps_of(window, group=group, phase=phase)) for group in range(5) for phase in (0, 99)} == {(2, 3, 4)}


def test_a_random_window_is_elsewhere_for_each_group_of_each_rollout_and_always_whole() -> None:
    window = Window(length=3, first=1, moves="random", latest=6)
    begins = [[steps_of(window, group=group, phase=phase) for group in range(40)] for phase in range(5)]
    assert begins == [[steps_of(window, group=group, phase=phase) for group in range(40)] for phase in range(5)]
    assert all(own == [own[0], own[0] + 1, own[0] + 2] for phase in begins for own in phase)
    assert {own[0] for phase in begins for own in phase} == {1, 2, 3, 4, 5, 6}
    assert begins[0] != begins[1]
    other_seed = Window(length=3, first=1, moves="random", latest=6, seed=1)
    assert begins[0] != [steps_of(other_seed, group=group) for group in range(40)]


@pytest.mark.parametrize("moves", ["fixed", "random", "progressive"])
def test_samples_of_a_group_share_their_window_wherever_they_stand(moves: Any) -> None:
    mask = Window(length=2, moves=moves).mask(12, [4, 9, 4, 9, 4], phase=7)
    assert torch.equal(mask[:, 0], mask[:, 2])
    assert torch.equal(mask[:, 0], mask[:, 4])
    assert torch.equal(mask[:, 1], mask[:, 3])
    assert torch.equal(mask[:, 1], Window(length=2, moves=moves).mask(12, [9], phase=7)[:, 0])


def test_a_progressive_window_goes_from_early_to_late_steps_and_round_again() -> None:
    window = Window(length=4, first=2, moves="progressive", every=10)
    assert [steps_of(window, phase=phase)[0] for phase in (0, 9, 10, 20, 49, 50)] == [2, 2, 3, 4, 6, 2]
    assert steps_of(window, phase=49) == [6, 7, 8, 9], "as late as fits"


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"latest": 3, "length": 2}, "'latest' bounds a window that moves"),
        ({"latest": 3, "first": 4, "length": 2, "moves": "random"}, "'latest' must be >= 'first', 4: 3"),
        ({"first": 2}, "'first' says where the window is; give its 'length' too"),
        ({"moves": "random"}, "'moves' says where the window is; give its 'length' too"),
        ({"length": -1}, "'length' must be >= 0"),
    ],
)
def test_a_window_that_says_two_things_is_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Window(**settings)


NOISE = Latents(tokens=normal(6 + 4, 3, seed=1), grids=((1, 2, 3), (1, 4, 1)))


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def record(noisy: torch.Tensor) -> list[Step]:
    steps: list[Step] = []
    sampler = Wandering(steps=4)
    integrate(sampler, GaussianField(), NOISE, NOTHING, generators=generators(1, 2), record=steps.append, noisy=noisy)
    return steps


def test_outside_its_window_a_sample_follows_the_ordinary_equation_to_the_last_bit() -> None:
    noisy = torch.tensor([[False, True], [True, False], [True, True], [False, False]])
    for step, adds in zip(record(noisy), noisy.tolist(), strict=True):
        v = GaussianField().velocity(step.x, step.t, NOTHING).tokens
        euler = step.x.with_tokens(step.x.tokens + step.x.per_token(step.t_next - step.t) * v)
        for own, straight, added in zip(step.x_next.split(), euler.split(), adds, strict=True):
            assert torch.equal(own.tokens, straight.tokens) == (not added)
        assert (step.std > 0).tolist() == adds
        assert (step.log_prob != 0).tolist() == adds


def test_what_a_sample_draws_does_not_depend_on_the_windows_of_others() -> None:
    apart = record(torch.tensor([[False, True]] * 4))
    together = record(torch.tensor([[True, True]] * 4))
    assert torch.equal(apart[-1].x_next.split()[1].tokens, together[-1].x_next.split()[1].tokens)


def test_a_law_made_again_gives_the_recorded_probability_to_the_last_bit() -> None:
    noisy = torch.tensor([[True, True], [False, True], [True, False], [True, True]])
    for step in record(noisy):
        v = GaussianField().velocity(step.x, step.t, NOTHING).tokens
        mean, std = step_law(Wandering(steps=4), step.x, v, step.t, step.t_next, noisy[step.index])
        assert torch.equal(flow.log_prob(step.x_next, mean, std), step.log_prob)


def test_a_generator_a_sample_is_wanted() -> None:
    with pytest.raises(QiError, match=r"Wandering: 1 generators for 2 samples; .* wants one a sample"):
        Wandering().sample(GaussianField(), NOISE, NOTHING, generators=generators(1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_states_are_float32_or_refused(dtype: torch.dtype) -> None:
    with pytest.raises(QiError, match=f"Wandering: noise in {dtype}; float32 is wanted"):
        Wandering().sample(GaussianField(), NOISE.to(dtype), NOTHING, generators=generators(1, 2))
