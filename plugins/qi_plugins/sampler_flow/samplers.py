"""Euler and Heun.

Times are per sample, because the released shift depends on a picture's number of tokens; states are float32 always.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from attrs import field, frozen, validators

from qi_core import Shift
from qi_core.settings import above_zero

if TYPE_CHECKING:
    import torch

    from qi_core import Condition, Denoiser, Latents, Record


@frozen(kw_only=True)
class Euler:
    """First order, one velocity a step: what the released pipeline does."""

    steps: int = field(default=50, validator=validators.gt(0))
    """Steps from noise to data; each calls the denoiser once."""
    shift: Shift = field(default="qwen-image", validator=above_zero)
    """How times are moved toward noise; "qwen-image" is the released scheduler, "none" is uniform."""

    def sample(
        self,
        denoiser: Denoiser,
        noise: Latents,
        condition: Condition,
        *,
        generators: Sequence[torch.Generator] = (),
        record: Record | None = None,
    ) -> Latents:
        """See ``qi_core.Sampler``. Draws nothing."""
        from qi_core import flow
        from qi_core.stochastic import sure_step

        times = flow.time_grid(self.steps, noise.lengths, self.shift).to(noise.tokens.device)
        x = noise
        for index, (t, t_next) in enumerate(pairwise(times)):
            v = denoiser.velocity(x, t, condition)
            x_next = x.with_tokens(x.tokens + x.per_token(t_next - t) * v.tokens.float())
            if record is not None:
                record(sure_step(index, t, t_next, x, x_next))
            x = x_next
        return x


@frozen(kw_only=True)
class Heun:
    """Second order, two velocities a step (Karras et al. 2022, arXiv 2206.00364, algorithm 1, without churn)."""

    steps: int = field(default=25, validator=validators.gt(0))
    """Steps from noise to data; each calls the denoiser twice, the last one once."""
    shift: Shift = field(default="qwen-image", validator=above_zero)
    """How times are moved toward noise; "qwen-image" is the released scheduler, "none" is uniform."""

    def sample(
        self,
        denoiser: Denoiser,
        noise: Latents,
        condition: Condition,
        *,
        generators: Sequence[torch.Generator] = (),
        record: Record | None = None,
    ) -> Latents:
        """See ``qi_core.Sampler``. Draws nothing."""
        from qi_core import flow
        from qi_core.stochastic import sure_step

        times = flow.time_grid(self.steps, noise.lengths, self.shift).to(noise.tokens.device)
        x = noise
        for i in range(self.steps):
            t, t_next = times[i], times[i + 1]
            dt = x.per_token(t_next - t)
            v = denoiser.velocity(x, t, condition).tokens.float()
            guess = x.with_tokens(x.tokens + dt * v)
            if i < self.steps - 1:  # at t = 1 the data is reached: the field there is not asked for
                v = (v + denoiser.velocity(guess, t_next, condition).tokens.float()) / 2
            x_next = x.with_tokens(x.tokens + dt * v)
            if record is not None:
                record(sure_step(i, t, t_next, x, x_next))
            x = x_next
        return x
