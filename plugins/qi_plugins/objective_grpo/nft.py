"""DiffusionNFT (arXiv 2509.16117): what was good and what was bad, told apart on noised pictures alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from attrs import field, frozen, validators

from qi_core import Fixed, Loss, Ramp, Rollouts, Rule, Shift
from qi_core.settings import above_zero
from qi_plugins.objective_grpo.names import OLD, REFERENCE

if TYPE_CHECKING:
    from torch import Tensor

    from qi_core import DenoiserModule, Dice, Models
    from qi_plugins.objective_grpo.forward import Noised, Prepared

LEAST = 1e-5
"""An error is never divided by less."""


@frozen(kw_only=True)
class Nft:
    """No trajectories, no likelihood, any sampler, no guidance: two implied models, one that does more of what the
    policy does beyond the old one and one that does less, are fitted to pictures by how good these are.

    The loss is the mean over pictures of the mean over their draws.
    """

    takes: ClassVar[type] = Rollouts

    mix: float = field(default=1.0, validator=validators.gt(0))
    """The paper's beta: how much of the policy's difference from the old policy the implied models show. Smaller makes
    bolder policies."""
    advantage_clip: float = field(default=5.0, validator=validators.gt(0))
    """Advantages of so much, and more, count as wholly good or wholly bad."""
    old_slope: float = field(default=0.001, validator=validators.ge(0))
    """The old policy keeps min(old_slope * n, old_most) of itself at the n-th update, and takes the rest from the
    policy: right behind it at first, at a distance later."""
    old_most: float = field(default=0.5, validator=[validators.ge(0), validators.lt(1)])
    """See ``old_slope``."""
    beta: float = field(default=1e-4, validator=validators.ge(0))
    """Weight of |v - v_ref|^2, the distance to the reference. 0: it is only watched."""
    reference: Literal["start", "base", "none"] = "start"
    """"start": the weights that the run began with. "base": the denoiser without its adapter. "none": no reference."""
    draws: int = field(default=1, validator=validators.gt(0))
    """Times at which each picture is learned from in an update, each with noise of its own."""
    times: Literal["uniform", "logit-normal"] = "uniform"
    """How t is drawn; logit-normal: sigmoid of N(0, 1)."""
    shift: Shift = field(default="none", validator=above_zero)
    """Moves drawn times toward noise: a factor, or "qwen-image" for the released shift by number of image tokens."""

    def shadows(self) -> Mapping[str, Rule]:
        """See ``qi_core.Shadowed``."""
        old: dict[str, Rule] = {OLD: Ramp(self.old_slope, self.old_most)}
        return old | ({REFERENCE: Fixed()} if self.reference == "start" else {})

    def prepare(self, batch: Rollouts, models: Models, dice: Dice) -> Prepared:
        """Noised pictures, and what the old policy and the reference say of them."""
        from qi_plugins.objective_grpo.forward import prepared

        return prepared(
            batch, models, dice, draws=self.draws, times=self.times, shift=self.shift, reference=self.reference
        )

    def loss(self, denoiser: DenoiserModule, prepared: Prepared, dice: Dice) -> Loss:
        """Algorithm 1 with the self-normalised error of x_0.

        L = A_max / mix (r |x_0+ - x_0|^2 / w+ + (1 - r) |x_0- - x_0|^2 / w-), r = 1/2 + clip(A / A_max, -1, 1) / 2,
        v+ = (1 - mix) v_old + mix v, v- = (1 + mix) v_old - mix v, w = the mean of |x_0+- - x_0|, without a gradient.
        Where v = v_old, the gradient is that of A |x_0_hat - x_0|^2 / w: the factor in front makes it so.
        """
        import torch

        from qi_plugins.objective_grpo import parts

        batch, noise, old = prepared.batch, prepared.noised, prepared.old
        v = noise.points.velocity(denoiser)
        good = self._error(noise, (1 - self.mix) * old + self.mix * v)
        bad = self._error(noise, (1 + self.mix) * old - self.mix * v)
        advantages = torch.tensor([item.advantage for item in batch], device=v.device)
        share = noise.by_draw(0.5 + (advantages / self.advantage_clip).clamp(-1, 1) / 2)
        policy = noise.by_picture(share * good + (1 - share) * bad) * (self.advantage_clip / self.mix)
        told: dict[str, Tensor] = {
            "loss/policy": policy,
            "loss/good": noise.by_picture(good),
            "loss/bad": noise.by_picture(bad),
            "velocity/old": noise.by_picture(noise.x.sample_mean((v - old).square())),
        }
        value = policy
        if prepared.reference is not None:
            kl = noise.by_picture(noise.x.sample_mean((v - prepared.reference).square()))
            value = policy + self.beta * kl
            told |= {"kl": kl, "loss/kl": self.beta * kl}
        return Loss(value=value.mean(), parts=parts.means(parts.worth(batch, v.device) | told))

    def _error(self, noise: Noised, velocity: Tensor) -> Tensor:
        """(B * K,) of x_0, over its own size."""
        from qi_core import flow

        time = noise.x.per_token(noise.points.t)
        apart = flow.data_estimate(noise.x.tokens, velocity, time) - noise.data
        size = noise.x.sample_mean(apart.detach().abs()).clamp(min=LEAST)
        return noise.x.sample_mean(apart.square()) / size
