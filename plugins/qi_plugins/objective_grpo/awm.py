"""Advantage weighted matching (arXiv 2509.25050): the loss of pretraining as the policy's log-probability."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from attrs import field, frozen, validators

from qi_core import Average, Fixed, Loss, Rollouts, Rule, Shift
from qi_core.settings import above_zero
from qi_plugins.objective_grpo.names import OLD, REFERENCE

if TYPE_CHECKING:
    from torch import Tensor

    from qi_core import DenoiserModule, Dice, Models
    from qi_plugins.objective_grpo.forward import Prepared


@frozen(kw_only=True)
class Awm:
    """A clipped policy gradient with log p(x_0) := -w(t) |v - (x_0 - x_1)|^2, the mean over a picture's values: more of
    flow matching on good pictures, less on bad ones. No trajectories, any sampler.

    The loss is the mean over pictures of the mean over their draws. It learns fast and drifts fast: keep the KL terms.
    """

    takes: ClassVar[type] = Rollouts

    weight: Literal["none", "noise"] = "none"
    """w(t): 1, or 1 - t, which leaves detail as it is."""
    clip: float = field(default=1e-4, validator=validators.gt(0))
    """How far the ratio to the old policy may go from 1. On the first update after a rollout it is 1."""
    clip_high: float = field(default=0.0, validator=validators.ge(0))
    """The same upward, where it should be another; 0: as ``clip``."""
    beta: float = field(default=0.01, validator=validators.ge(0))
    """Weight of |v - v_ref|^2, the distance to the reference. 0: it is only watched."""
    reference: Literal["start", "base", "none"] = "start"
    """"start": the weights that the run began with. "base": the denoiser without its adapter. "none": no reference."""
    old_decay: float = field(default=0.9, validator=[validators.ge(0), validators.lt(1)])
    """Decay of the average of the weights that is the old policy: of later updates from one rollout, and of
    ``beta_old``."""
    beta_old: float = field(default=0.1, validator=validators.ge(0))
    """Weight of |v - v_old|^2, which slows the policy down and does not hold it back."""
    draws: int = field(default=1, validator=validators.gt(0))
    """Times at which each picture is learned from in an update, each with noise of its own."""
    times: Literal["uniform", "logit-normal"] = "uniform"
    """How t is drawn; logit-normal: sigmoid of N(0, 1)."""
    shift: Shift = field(default="none", validator=above_zero)
    """Moves drawn times toward noise: a factor, or "qwen-image" for the released shift by number of image tokens."""

    def shadows(self) -> Mapping[str, Rule]:
        """See ``qi_core.Shadowed``."""
        old: dict[str, Rule] = {OLD: Average(self.old_decay)}
        return old | ({REFERENCE: Fixed()} if self.reference == "start" else {})

    def prepare(self, batch: Rollouts, models: Models, dice: Dice) -> Prepared:
        """Noised pictures, and what the old policy and the reference say of them."""
        from qi_plugins.objective_grpo.forward import prepared

        return prepared(
            batch, models, dice, draws=self.draws, times=self.times, shift=self.shift, reference=self.reference
        )

    def loss(self, denoiser: DenoiserModule, prepared: Prepared, dice: Dice) -> Loss:
        """-min(r A, clip(r) A) + beta |v - v_ref|^2 + beta_old |v - v_old|^2, with r = exp(log p - log p_old)."""
        import torch

        from qi_plugins.objective_grpo import parts, pieces

        batch, noise, old = prepared.batch, prepared.noised, prepared.old
        v = noise.points.velocity(denoiser)
        weight = 1 - noise.points.t if self.weight == "noise" else torch.ones_like(noise.points.t)
        error = noise.x.sample_mean((v - noise.target).square())
        log_prob = -weight * error
        before = log_prob.detach() if batch.fresh else -weight * noise.x.sample_mean((old - noise.target).square())
        ratio = (log_prob - before).exp()
        advantages = noise.by_draw(torch.tensor([item.advantage for item in batch], device=v.device))
        moved = noise.x.sample_mean((v - old).square())
        one = torch.ones_like(ratio)
        bounds = pieces.Bounds(low=self.clip * one, high=(self.clip_high or self.clip) * one, kl=0.0)
        bounded = pieces.clip(ratio, advantages, moved, bounds)
        policy, drift = noise.by_picture(bounded.loss), noise.by_picture(moved)
        told: dict[str, Tensor] = {
            "loss/policy": policy,
            "loss/flow": noise.by_picture(error),
            "loss/old": self.beta_old * drift,
            "ratio": noise.by_picture(ratio),
            "ratio/away": noise.by_picture((ratio - 1).abs()),
            "clip/low": noise.by_picture(bounded.low.float()),
            "clip/high": noise.by_picture(bounded.high.float()),
            "velocity/old": drift,
        }
        value = policy + self.beta_old * drift
        if prepared.reference is not None:
            kl = noise.by_picture(noise.x.sample_mean((v - prepared.reference).square()))
            value = value + self.beta * kl
            told |= {"kl": kl, "loss/kl": self.beta * kl}
        return Loss(value=value.mean(), parts=parts.means(parts.worth(batch, v.device) | told))
