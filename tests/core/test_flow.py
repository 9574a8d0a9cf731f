"""The convention, against the released scheduler."""

from __future__ import annotations

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from qi_core import Condition, Guidance, Latents, flow
from support.mixture import NOTHING, Mixture, line
from support.tiny_pipeline import SCHEDULER


@pytest.mark.parametrize("steps", [2, 4, 50])
@pytest.mark.parametrize("tokens", [256, 4096, 6889])
def test_the_time_grid_is_the_released_schedulers(steps: int, tokens: int) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(**SCHEDULER)
    sigmas = torch.linspace(1, 1 / steps, steps).tolist()
    scheduler.set_timesteps(sigmas=sigmas, mu=flow.released_mu(tokens))
    ours = flow.time_grid(steps, [tokens], "qwen-image")[:, 0]
    assert torch.allclose(1 - ours, scheduler.sigmas, atol=2e-7)


def test_every_sample_has_its_own_times() -> None:
    both = flow.time_grid(10, [256, 4096], "qwen-image")
    assert torch.equal(both[:, 1], flow.time_grid(10, [4096], "qwen-image")[:, 0])
    assert (both[1:-2, 1] < both[1:-2, 0]).all(), "more tokens: more time near noise"


@pytest.mark.parametrize("shift", ["none", 3.0])
def test_times_rise_from_noise_to_data(shift: flow.Shift) -> None:
    times = flow.time_grid(7, [12], shift)[:, 0]
    assert times[0] == 0
    assert times[-1] == 1
    assert (times.diff() > 0).all()


def test_a_factor_multiplies_the_odds_of_sigma() -> None:
    t = torch.tensor([0.0, 0.25, 0.5, 1.0])
    shifted = flow.shift_time(t, 2.0)
    odds = (1 - t[1:3]) / t[1:3]
    assert torch.allclose((1 - shifted[1:3]) / shifted[1:3], 2 * odds)
    assert shifted[0] == 0
    assert shifted[3] == 1


def test_velocity_is_the_derivative_of_the_path_and_recovers_both_ends() -> None:
    data, noise = torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    t = torch.full((5, 1), 0.3, dtype=torch.float64)
    x, v = flow.interpolate(data, noise, t), flow.velocity_target(data, noise)
    later = flow.interpolate(data, noise, t + 1e-4)
    assert torch.allclose((later - x) / 1e-4, v)
    assert torch.allclose(flow.data_estimate(x, v, t), data)
    assert torch.allclose(flow.noise_estimate(x, v, t), noise)


def test_guidance_is_the_released_pipelines() -> None:
    """comb = neg + s (pos - neg), rescaled per token to the norm of pos (diffusers, QwenImagePipeline)."""
    positive, negative = torch.randn(6, 8), torch.randn(6, 8)

    class Told:
        def velocity(self, latents: Latents, t: torch.Tensor, condition: Condition) -> Latents:
            assert condition.lengths == (2, 3)
            assert t.shape == (2,)
            return latents.with_tokens(torch.cat([positive, negative]))

    latents = Latents(tokens=torch.zeros(6, 8), grids=((1, 2, 3),))
    texts = [Condition(text=torch.zeros(n, 4), lengths=(n,)) for n in (2, 3)]
    guided = flow.Guided(Told(), texts[1], Guidance(scale=4.0)).velocity(latents, torch.zeros(1), texts[0])
    mixed = negative + 4 * (positive - negative)
    expected = mixed * positive.norm(dim=-1, keepdim=True) / mixed.norm(dim=-1, keepdim=True)
    assert torch.allclose(guided.tokens, expected)


@pytest.mark.parametrize("t", [0.0, 0.1, 0.5, 0.9])
def test_the_score_is_the_gradient_of_the_log_density(t: float) -> None:
    """On two modes, whose density is known: -(x - t v) / (1 - t) with their exact velocity."""
    x = torch.linspace(-3, 4, 50, dtype=torch.float64)
    v = Mixture().velocity(line(x), torch.tensor([t]), NOTHING).tokens[:, 0]
    exact = Mixture().score(x, torch.tensor([t]).item())
    assert torch.allclose(flow.score(x, v, torch.tensor(t, dtype=torch.float32).double()), exact, atol=1e-6)


def test_log_probabilities_are_means_over_a_samples_values() -> None:
    x = Latents(tokens=torch.randn(10, 3), grids=((1, 2, 3), (1, 4, 1)))
    mean, std = torch.randn(10, 3), torch.tensor([0.5, 2.0])
    exact = torch.distributions.Normal(mean, x.per_token(std)).log_prob(x.tokens)
    expected = torch.stack([exact[:6].mean(), exact[6:].mean()])
    assert torch.allclose(flow.log_prob(x, mean, std), expected)
    sure = flow.log_prob(x, mean, torch.tensor([0.0, 2.0]))
    assert sure[0] == 0, "without noise there is no density"
    assert torch.allclose(sure[1], expected[1])


def test_the_kl_of_two_laws_is_what_is_lost_on_average_by_draws() -> None:
    x = Latents(tokens=torch.zeros(10, 3), grids=((1, 2, 3), (1, 4, 1)))
    mean, other, std = torch.randn(10, 3), torch.randn(10, 3), torch.tensor([0.5, 2.0])
    laws = [torch.distributions.Normal(own, x.per_token(std)) for own in (mean, other)]
    expected = x.sample_mean(torch.distributions.kl_divergence(*laws))
    assert torch.allclose(flow.gaussian_kl(x, mean, other, std), expected)
    assert flow.gaussian_kl(x, mean, other, torch.zeros(2)).tolist() == [0, 0]
