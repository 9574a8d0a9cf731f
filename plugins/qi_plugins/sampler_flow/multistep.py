"""Adams and Bashforth: what was asked before is used again.

The velocity of a flow is smooth in t and finite at both ends. Solvers made for noise or data predictions, such as
DPM-Solver++ (arXiv 2211.01095), extrapolate in log(t / (1 - t)), which is infinite at both ends, and have to fall back
to first order there; docs/samplers.md compares them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from attrs import field, frozen, validators

from qi_core import Shift
from qi_core.settings import above_zero

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from qi_core import Condition, Denoiser, Latents, Record


@frozen(kw_only=True)
class AdamsBashforth:
    """Second or third order for one velocity a step: steps are extrapolated from those before. For few steps."""

    steps: int = field(default=20, validator=validators.gt(0))
    """Steps from noise to data; each calls the denoiser once (with order 3, the first one twice)."""
    order: Literal[2, 3] = 2
    """Of convergence: twice the steps leave about a quarter (2) or an eighth (3) of the error. With few steps (8), 3
    overshoots where the field turns sharply."""
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
        past: list[tuple[Tensor, Tensor]] = []  # (t (N, 1), velocity (N, D)), the latest first
        for index in range(self.steps):
            t, t_next = times[index], times[index + 1]
            now, dt = x.per_token(t), x.per_token(t_next - t)
            v = denoiser.velocity(x, t, condition).tokens.float()
            past = [(now, v), *past][: self.order]
            if not index and self.order > 2 and self.steps > 1:
                # Nothing to extrapolate from, and Euler's error of dt^2 would stay: Heun's step instead.
                guess = x.with_tokens(x.tokens + dt * v)
                mean = (v + denoiser.velocity(guess, t_next, condition).tokens.float()) / 2
            else:
                mean = _mean_velocity(dt, past)
            x_next = x.with_tokens(x.tokens + dt * mean)
            if record is not None:
                record(sure_step(index, t, t_next, x, x_next))
            x = x_next
        return x


def _mean_velocity(dt: Tensor, past: list[tuple[Tensor, Tensor]]) -> Tensor:
    """The mean over a step, t to t + dt, of the polynomial through the latest velocities (Newton's form, so that steps
    may differ in size; Hairer, Norsett, Wanner, Solving Ordinary Differential Equations I, III.5).

    v + (s - t) v[t, t1] + (s - t) (s - t1) v[t, t1, t2], whose means are 1, dt / 2 and dt^2 / 3 + (t - t1) dt / 2.
    """
    t, v = past[0]
    mean = v
    if len(past) > 1:
        t1, v1 = past[1]
        slope = (v - v1) / (t - t1)
        mean = mean + dt / 2 * slope
        if len(past) > 2:
            t2, v2 = past[2]
            bend = (slope - (v1 - v2) / (t1 - t2)) / (t - t2)
            mean = mean + (dt**2 / 3 + (t - t1) * dt / 2) * bend
    return mean
