"""The one convention (Qwen-Image report, arXiv 2508.02324, equations 1 and 2). Nothing else may define time.

    x_t = t x_0 + (1 - t) x_1        x_0 data (t = 1), x_1 ~ N(0, I) noise (t = 0)
    v_t = dx_t/dt = x_0 - x_1        what the denoiser gives; sampling goes from t = 0 to t = 1

diffusers and most public code use sigma = 1 - t and u = noise - data = -v. The flip is done once, where released
weights meet this code (the mmdit plugin).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from attrs import frozen
from torch import Tensor

from qi_core.data import Condition, Latents
from qi_core.denoiser import Denoiser
from qi_core.settings import Guidance, Shift

# The released scheduler (Qwen-Image scheduler_config.json): mu is linear in the number of image tokens.
BASE_TOKENS, MAX_TOKENS = 256, 8192
BASE_MU, MAX_MU = 0.5, 0.9
TERMINAL_SIGMA = 0.02


def interpolate(data: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """x_t = t x_0 + (1 - t) x_1 (eq. 1). ``t`` broadcasts against the rest."""
    return t * data + (1 - t) * noise


def velocity_target(data: Tensor, noise: Tensor) -> Tensor:
    """v = x_0 - x_1 (eq. 1)."""
    return data - noise


def data_estimate(x: Tensor, velocity: Tensor, t: Tensor) -> Tensor:
    """E[x_0 | x_t] = x_t + (1 - t) v."""
    return x + (1 - t) * velocity


def noise_estimate(x: Tensor, velocity: Tensor, t: Tensor) -> Tensor:
    """E[x_1 | x_t] = x_t - t v."""
    return x - t * velocity


def score(x: Tensor, velocity: Tensor, t: Tensor) -> Tensor:
    """grad log p_t(x) = -(x - t v) / (1 - t): minus the expected noise over its deviation. Not at t = 1."""
    return -noise_estimate(x, velocity, t) / (1 - t)


def log_prob(x: Latents, mean: Tensor, std: Tensor) -> Tensor:
    """(B,) log-density of N(mean, std^2), the mean over a sample's values, as every public implementation takes it: a
    difference of 1e-4 is 6.6 nats at 512 x 512 pixels and 44 at 1328 x 1328. 0 where std (B,) is 0."""
    noisy = std > 0
    safe = torch.where(noisy, std, torch.ones_like(std))
    squares = x.sample_mean((x.tokens - mean).square())
    value = -squares / (2 * safe.square()) - safe.log() - 0.5 * math.log(2 * math.pi)
    return torch.where(noisy, value, torch.zeros_like(value))


def gaussian_kl(x: Latents, mean: Tensor, other: Tensor, std: Tensor) -> Tensor:
    """(B,) KL(N(mean, std^2) || N(other, std^2)), the mean over a sample's values; 0 where std (B,) is 0.

    For the Euler-Maruyama step it is eq. 8 over the number of values, in this file's convention of time:
    dt / 2 (g t / (2 (1 - t)) + 1 / g)^2 |v - v_ref|^2.
    """
    noisy = std > 0
    safe = torch.where(noisy, std, torch.ones_like(std))
    value = x.sample_mean((mean - other).square()) / (2 * safe.square())
    return torch.where(noisy, value, torch.zeros_like(value))


def released_mu(tokens: int) -> float:
    """The released scheduler's mu for a picture of so many tokens (references are not counted); not clamped."""
    return BASE_MU + (tokens - BASE_TOKENS) * (MAX_MU - BASE_MU) / (MAX_TOKENS - BASE_TOKENS)


def shift_factor(shift: Shift, tokens: int) -> float:
    """e^mu: by how much odds of sigma are multiplied."""
    if shift == "none":
        return 1.0
    if shift == "qwen-image":
        return math.exp(released_mu(tokens))
    return float(shift)


def shift_time(t: Tensor, factor: Tensor | float) -> Tensor:
    """Move times toward noise: odds of sigma = 1 - t times ``factor``; sigma' = f / (f + 1/sigma - 1)."""
    # In terms of t, with no division by zero at either end: t' = t / (t + f (1 - t)).
    return t / (t + factor * (1 - t))


def draw(
    data: Latents,
    generators: Sequence[torch.Generator],
    times: Literal["logit-normal", "uniform"],
    mean: float = 0.0,
    std: float = 1.0,
    shift: Shift = "none",
) -> tuple[Tensor, Tensor]:
    """A time and noise for each sample: t (B,) float32 in [0, 1] and x_1 (N, D) float32 ~ N(0, I), beside the data.

    ``generators`` (CPU), one a sample: time first, then noise, so that a sample's draws depend on its own alone.
    Logit-normal: t = sigmoid(mean + std n), n ~ N(0, 1).
    """
    drawn: list[Tensor] = []
    noise = torch.empty(data.tokens.shape)
    for generator, own in zip(generators, torch.split(noise, list(data.lengths)), strict=True):
        one = torch.rand if times == "uniform" else torch.randn
        drawn.append(one((), generator=generator))
        own.normal_(generator=generator)
    t = torch.stack(drawn)
    if times == "logit-normal":
        # One by one: the vector form rounds differently at other places of the batch.
        t = torch.stack([torch.sigmoid(one) for one in (mean + std * t).unbind()])
    t = shift_time(t, torch.tensor([shift_factor(shift, tokens) for tokens in data.lengths]))
    device = data.tokens.device
    return t.to(device), noise.to(device)


def time_grid(steps: int, tokens: Sequence[int], shift: Shift = "none") -> Tensor:
    """Times of a sampler, (steps + 1, B) float32, rising from 0 to 1; each sample has its own column.

    ``qwen-image`` follows the released scheduler: sigmas linspace(1, 1/steps), shifted exponentially by mu, stretched
    so that the last one is 0.02, then 0.
    """
    if shift != "qwen-image":
        uniform = torch.linspace(0, 1, steps + 1, dtype=torch.float64)[:, None].expand(-1, len(tokens))
        return shift_time(uniform, shift_factor(shift, 0)).float()
    factor = torch.tensor([shift_factor(shift, n) for n in tokens], dtype=torch.float64)
    sigma = torch.linspace(1, 1 / steps, steps, dtype=torch.float64)[:, None]
    sigma = factor / (factor + (1 / sigma - 1))
    if steps > 1:
        sigma = 1 - (1 - sigma) * (1 - TERMINAL_SIGMA) / (1 - sigma[-1])
    return torch.cat([1 - sigma, torch.ones(1, len(tokens), dtype=torch.float64)]).float()


@frozen(eq=False)
class Guided:
    """A denoiser that guides: v = neg + scale (pos - neg), then per token scaled to the norm of pos."""

    denoiser: Denoiser
    negative: Condition
    guidance: Guidance

    def velocity(self, latents: Latents, t: Tensor, condition: Condition) -> Latents:
        """See ``Denoiser.velocity``. Both passes are one packed batch."""
        both = self.denoiser.velocity(
            Latents.cat([latents, latents]), torch.cat([t, t]), Condition.cat([condition, self.negative])
        )
        positive, negative = both.tokens.chunk(2)
        mixed = negative + self.guidance.scale * (positive - negative)
        if self.guidance.rescale:
            # A network that has learned nothing yet may answer 0 everywhere, and 0 stays 0.
            least = torch.finfo(mixed.dtype).tiny
            mixed = mixed * (positive.norm(dim=-1, keepdim=True) / mixed.norm(dim=-1, keepdim=True).clamp_min(least))
        return latents.with_tokens(mixed)
