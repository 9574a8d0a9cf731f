"""Four ways to add noise, of one form:

    x' = x + dt v - taken x1_hat + std eps,      x1_hat = x - t v, the noise that is expected in x; eps ~ N(0, I)

Euler's step, less a part of the old noise, and new noise instead. They differ in how much (``fresh``):

    exact-sde   taken = (1 - t') (1 - rho)        std = (1 - t') sqrt(1 - rho^2)
                rho = [t (1 - t') / (t' (1 - t))]^(a^2 / 2)
    flow-sde    taken = dt a^2 / (2 t)            std = a sqrt(dt (1 - t) / t)
    dance-sde   taken = dt eta^2 / (2 (1 - t))    std = eta sqrt(dt)
    cps         taken = (1 - t') (1 - cos)        std = (1 - t') sin                  of the angle eta pi / 2

Nothing is taken and nothing put in at level 0: then each is Euler's step, bit for bit.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from attrs import Attribute, field, frozen, validators

from qi_core import Shift, Window
from qi_core.settings import above_zero

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from qi_core import Condition, Denoiser, Latents, Record, Transition


def _fits(instance: _Noisy, _: Attribute[Window], window: Window) -> None:
    if window.first + window.length > instance.steps:
        raise ValueError(
            f"'window' of {window.length} steps from step {window.first}, counted from 0, does not fit into "
            f"{instance.steps} steps"
        )
    if window.latest + window.length > instance.steps:
        raise ValueError(
            f"'window' of {window.length} steps may begin at step {window.latest} (latest), and then does not fit into "
            f"{instance.steps} steps"
        )
    latest = window.latest or (window.first if window.moves == "fixed" else instance.steps - 1)
    if instance.sure_end and window.length == 1 and latest == instance.steps - 1:
        raise ValueError(
            "'window' of 1 step may be the last step, which adds no noise here: nothing could be trained; give it "
            f"2 steps, or a 'latest' (or 'first') below {latest}"
        )


@frozen(kw_only=True)
class _Noisy(ABC):
    """What the four share."""

    sure_end: ClassVar[bool] = False
    """Whether the step to t' = 1 adds no noise."""

    steps: int = field(default=10, validator=validators.gt(0))
    """Steps from noise to data; each calls the denoiser once."""
    shift: Shift = field(default="qwen-image", validator=above_zero)
    """How times are moved toward noise; "qwen-image" is the released scheduler, "none" is uniform."""
    window: Window = field(factory=Window, validator=_fits)
    """The steps that add noise; all others follow the ordinary equation (Euler). Unsaid: every step adds noise."""

    @abstractmethod
    def fresh(self, t: Tensor, t_next: Tensor) -> tuple[Tensor, Tensor]:
        """(taken, std), each (B,): how much of the noise expected in x is taken away, and how much new is put in.

        Times are float64: so a sample's law does not depend, to the last bit, on its place in the batch.
        """

    def times(self, lengths: Sequence[int]) -> Tensor:
        """See ``qi_core.StochasticSampler.times``."""
        from qi_core import flow

        return flow.time_grid(self.steps, lengths, self.shift)

    def transition(self, x: Latents, velocity: Tensor, t: Tensor, t_next: Tensor) -> Transition:
        """See ``qi_core.StochasticSampler.transition``."""
        from qi_core import Transition, flow

        taken, std = (value.float() for value in self.fresh(t.double(), t_next.double()))
        old = flow.noise_estimate(x.tokens, velocity, x.per_token(t))
        straight = x.tokens + x.per_token(t_next - t) * velocity
        return Transition(mean=straight - x.per_token(taken) * old, std=std)

    def noisy(self, steps: int, groups: Sequence[int], phase: int) -> Tensor:
        """See ``qi_core.StochasticSampler.noisy``."""
        return self.window.mask(steps, groups, phase)

    def sample(
        self,
        denoiser: Denoiser,
        noise: Latents,
        condition: Condition,
        *,
        generators: Sequence[torch.Generator] = (),
        record: Record | None = None,
    ) -> Latents:
        """See ``qi_core.Sampler``. Draws noise for the steps of the window from each sample's own generator."""
        from qi_core.stochastic import integrate

        return integrate(self, denoiser, noise, condition, generators=generators, record=record)


@frozen(kw_only=True)
class ExactSde(_Noisy):
    """Flow-GRPO's equation, its noise solved exactly over each step: no noise left over at the end. For rollouts.

    With the estimate of the data frozen over a step, what is left is an Ornstein-Uhlenbeck process, whose solution is
    x' = t' x0_hat + (1 - t') (rho x1_hat + sqrt(1 - rho^2) eps). Finite at both ends: t = 0 gives rho = 0 (all noise is
    new), t' = 1 gives std = 0.
    """

    sure_end: ClassVar[bool] = True

    a: float = field(default=0.7, validator=[validators.ge(0), validators.lt(math.inf)])
    """Level of noise, g_t = a sqrt((1 - t) / t); 0: none."""

    def fresh(self, t: Tensor, t_next: Tensor) -> tuple[Tensor, Tensor]:
        """rho = exp(-1/2 int g^2 / (1 - s)^2 ds) from t to t', by its logarithm: 1 - rho is small where steps are."""
        import torch

        if self.a == 0:  # 0 * log 0 at both ends
            return torch.zeros_like(t), torch.zeros_like(t)
        dt = t_next - t
        log_rho = (self.a**2 / 2) * (torch.log1p(-dt / t_next) + torch.log1p(-dt / (1 - t)))
        left = 1 - t_next
        return left * -torch.expm1(log_rho), left * (-torch.expm1(2 * log_rho)).sqrt()


@frozen(kw_only=True)
class FlowSde(_Noisy):
    """Flow-GRPO's equation by Euler and Maruyama (Qwen-Image report, eqs. 6 and 7; arXiv 2505.05470).

    dx = [v - g_t^2 / (2 (1 - t)) (x - t v)] dt + g_t dw with g_t = a sqrt((1 - t) / t), in this package's time (the
    report prints these equations with time running the other way). At t = 0, where g_t is infinite, the first step
    takes t' for the t under the fraction, as the public implementation does.
    """

    a: float = field(default=0.7, validator=[validators.ge(0), validators.lt(math.inf)])
    """Level of noise; 0: none."""

    def fresh(self, t: Tensor, t_next: Tensor) -> tuple[Tensor, Tensor]:
        """dt g^2 / (2 (1 - t)) and g sqrt(dt)."""
        import torch

        dt, under = t_next - t, torch.where(t > 0, t, t_next)
        return dt * self.a**2 / (2 * under), self.a * (dt * (1 - t) / under).sqrt()


@frozen(kw_only=True)
class DanceSde(_Noisy):
    """DanceGRPO's equation by Euler and Maruyama: as much noise at all times (arXiv 2505.07818)."""

    eta: float = field(default=0.3, validator=[validators.ge(0), validators.lt(math.inf)])
    """Level of noise, g_t = eta; 0: none."""

    def fresh(self, t: Tensor, t_next: Tensor) -> tuple[Tensor, Tensor]:
        """dt g^2 / (2 (1 - t)) and g sqrt(dt); finite, since t < 1 and dt <= 1 - t."""
        dt = t_next - t
        return dt * self.eta**2 / (2 * (1 - t)), self.eta * dt.sqrt()


@frozen(kw_only=True)
class Cps(_Noisy):
    """Coefficients-preserving sampling: turns old noise into new by an angle at each step (arXiv 2509.05952).

    x' = t' x0_hat + (1 - t') (cos(eta pi / 2) x1_hat + sin(eta pi / 2) eps). No noise is left over at the end; but the
    angle does not shrink with the step, so that more steps mean more noise and no limit: the marginals are not kept.
    """

    sure_end: ClassVar[bool] = True

    eta: float = field(default=0.5, validator=[validators.ge(0), validators.le(1)])
    """Level of noise; 0: none, 1: all noise is new at every step. Public recipes have 0.8, for a window of 3 steps."""

    def fresh(self, t: Tensor, t_next: Tensor) -> tuple[Tensor, Tensor]:
        """1 - cos and sin of the angle, times the noise's share of x'."""
        angle = self.eta * math.pi / 2
        return (1 - t_next) * (1 - math.cos(angle)), (1 - t_next) * math.sin(angle)
