"""Group relative policy optimisation on the steps of a stochastic sampler (Qwen-Image report, equations 4 and 5;
Flow-GRPO, arXiv 2505.05470). The advantages come with the rollouts; their equation 4 is the source's affair."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from attrs import field, frozen, validators

from qi_core import Fixed, Loss, QiError, Rollouts, Rule
from qi_plugins.objective_grpo.names import REFERENCE

if TYPE_CHECKING:
    from torch import Tensor

    from qi_core import DenoiserModule, Dice, Latents, Models
    from qi_plugins.objective_grpo.pieces import Bounds
    from qi_plugins.objective_grpo.replay import Points, Replay


@frozen(kw_only=True)
class Grpo:
    """A clipped policy gradient on every noisy step of every trajectory, and a KL to a reference.

    The loss is the mean over trajectories of the mean over their noisy steps. Learning rates of 1e-5 (all weights) to
    3e-4 (LoRA) and an Adam whose eps is 1e-15 go with it: its gradients are tiny.
    """

    takes: ClassVar[type] = Rollouts

    ratio: Literal["plain", "guard"] = "plain"
    """New over old probability of a step, by log-probabilities that are means over a picture's values. "guard"
    (GRPO-Guard, arXiv 2510.22319): centred, and of one spread at all steps; take 2e-6 or so for ``clip``."""
    trust: Literal["clip", "kl-mask", "none"] = "clip"
    """"clip": as PPO. "kl-mask" (Flow-DPPO, arXiv 2606.11025): no ratio is cut, but a step whose KL to the old policy
    has reached ``kl_limit`` teaches nothing that leads further away. On the first update after a rollout the ratio is 1
    and neither does anything."""
    clip: float = field(default=1e-4, validator=validators.gt(0))
    """How far the ratio may go from 1; 1e-3 to 1e-5 are in use."""
    clip_high: float = field(default=0.0, validator=validators.ge(0))
    """The same upward, where it should be another; 0: as ``clip``."""
    clip_nats: bool = False
    """``clip`` and ``clip_high`` are in nats of the whole picture, and are divided by its number of values: the same
    trust region at every resolution. (1e-4 of the mean is 6.6 nats at 512 x 512 pixels of the released model, 44 at
    1328 x 1328.)"""
    kl_limit: float = field(default=1e-5, validator=validators.gt(0))
    """For trust = "kl-mask": a KL, the mean over a picture's values."""
    weight: Literal["none", "inverse-dt", "noise"] = "none"
    """How much each step of a trajectory counts. "inverse-dt": 1 / dt, as GRPO-Guard. "noise": in proportion to the
    step's deviation, after TempFlow-GRPO (arXiv 2508.04324)."""
    steps: int = field(default=0, validator=validators.ge(0))
    """Noisy steps of a trajectory that are learned from at each visit, drawn anew; 0: all. DanceGRPO (arXiv 2505.07818)
    takes 0.6 of them."""
    kl: Literal["exact", "velocity", "flow-grpo", "none"] = "exact"
    """Distance to the reference. "exact": of the steps' laws (eq. 8 over the number of values); weighs late steps some
    hundred times the early ones. "velocity": |v - v_ref|^2 at a random time on the pictures drawn, all times alike: the
    choice for samplers with a window. "flow-grpo": "exact" times dt, as that code has it."""
    beta: float = field(default=0.01, validator=validators.ge(0))
    """Weight of the KL, if there is one. 0: it is only watched."""
    reference: Literal["start", "base"] = "start"
    """"start": the weights that the run began with, a copy of those that are trained. "base": the denoiser without its
    adapter, no copy."""
    guidance: Literal["none", "rollout"] = "none"
    """Guidance in the training pass. "rollout": as the pictures were drawn, at twice the cost. "none" with rollouts
    that were guided trains the model that guidance starts from; then each picture can be learned from in one update
    only, the first."""

    def shadows(self) -> Mapping[str, Rule]:
        """See ``qi_core.Shadowed``."""
        return {REFERENCE: Fixed()} if self.kl != "none" and self.reference == "start" else {}

    def prepare(self, batch: Rollouts, models: Models, dice: Dice) -> Prepared:
        """The trajectories, packed, and the reference's velocities. Raises QiError where steps have no probability."""
        from qi_plugins.objective_grpo.forward import noised
        from qi_plugins.objective_grpo.replay import replay

        device = models.strategy.device
        guided = self.guidance == "rollout"
        self._refuse(batch)
        pairs = replay(batch, guided, self.steps, dice, device)
        points, target = pairs.points, None
        if self.kl == "velocity":
            target = noised(batch, dice, device, guidance=batch.guidance if guided else None).points
            points = points.and_(target)
        reference = None
        if self.kl != "none":
            with models.as_of(REFERENCE if self.reference == "start" else self.reference) as before:
                reference = (target or points).velocity(before)
        return Prepared(
            batch=batch,
            pairs=pairs,
            points=points,
            elsewhere=target.x if target is not None else None,
            reference=reference,
        )

    def loss(self, denoiser: DenoiserModule, prepared: Prepared, dice: Dice) -> Loss:
        """Eq. 5. One forward pass for all pairs of all trajectories of the micro-batch."""
        import torch

        from qi_plugins.objective_grpo import parts, pieces

        batch, pairs = prepared.batch, prepared.pairs
        v = prepared.points.velocity(denoiser)
        mean, std = pairs.law(v[: len(pairs.mean)])
        # The weights that are trained are those that drew, so the old policy is the new one: the ratio is 1 exactly,
        # whatever the rounding of another batch, and its gradient that of the log-probability.
        move = pieces.Move.of(pairs.x_next, mean, mean.detach() if batch.fresh else pairs.mean, std)
        ratio = pieces.RATIOS[self.ratio](move)
        advantages = torch.tensor([item.advantage for item in batch], device=std.device)
        bounded = pieces.TRUSTS[self.trust](ratio, pairs.by_pair(advantages), move.kl, self._bounds(pairs.x_next))
        each = pieces.WEIGHTS[self.weight](pairs.dt, std, lambda values: pairs.by_pair(pairs.by_trajectory(values)))
        policy = pairs.by_trajectory(each * bounded.loss)
        told: dict[str, Tensor] = {
            "ratio": pairs.by_trajectory(ratio),
            "ratio/away": pairs.by_trajectory((ratio - 1).abs()),
            "clip/low": pairs.by_trajectory(bounded.low.float()),
            "clip/high": pairs.by_trajectory(bounded.high.float()),
            "kl/old": pairs.by_trajectory(move.kl),
            "loss/policy": policy,
        }
        if self._comparable(batch):
            recorded = pieces.Move.of(pairs.x_next, mean.detach(), pairs.mean, std)
            told["ratio/drift"] = pairs.by_trajectory(recorded.log_ratio.abs())
        value = policy
        if prepared.reference is not None:
            kl, away = self._distance(prepared, v, mean, std)
            value = policy + self.beta * kl
            told |= {"kl": kl, "loss/kl": self.beta * kl, "velocity/away": away}
        return Loss(value=value.mean(), parts=parts.means(parts.worth(batch, std.device) | told))

    def _distance(self, prepared: Prepared, v: Tensor, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
        """(B,) KL to the reference, and (B,) |v - v_ref|^2 where it was taken."""
        from qi_core import flow

        assert prepared.reference is not None
        pairs, reference, count = prepared.pairs, prepared.reference, len(mean)
        if prepared.elsewhere is not None:
            away = prepared.elsewhere.sample_mean((v[count:] - reference).square())
            return away, away.detach()
        away = pairs.by_trajectory(pairs.x_next.sample_mean((v - reference).square()).detach())
        kl = flow.gaussian_kl(pairs.x_next, mean, pairs.law(reference)[0], std)
        return pairs.by_trajectory(kl * pairs.dt if self.kl == "flow-grpo" else kl), away

    def _bounds(self, pictures: Latents) -> Bounds:
        """How far the ratio of each pair may go."""
        import torch

        from qi_plugins.objective_grpo import pieces

        values = torch.tensor(pictures.lengths, device=pictures.tokens.device) * pictures.tokens.shape[1]
        unit = 1 / values if self.clip_nats else torch.ones(len(values), device=values.device)
        return pieces.Bounds(low=self.clip * unit, high=(self.clip_high or self.clip) * unit, kl=self.kl_limit)

    def _comparable(self, batch: Rollouts) -> bool:
        """Whether what was recorded is of the policy that is trained: drawn with the guidance that it is trained
        with."""
        return self.guidance == "rollout" or all(item.negative is None for item in batch)

    def _refuse(self, batch: Rollouts) -> None:
        if not batch.fresh and not self._comparable(batch):
            raise QiError(
                "objective grpo: a second update from pictures that were drawn with guidance, which the objective "
                "trains without: what is known of their probabilities is another policy's; wanted one update a "
                'rollout (passes = 1 and train.batch = groups * group), or guidance = "rollout" in the objective'
            )


@frozen(kw_only=True, eq=False)
class Prepared:
    """What ``Grpo.loss`` works on."""

    batch: Rollouts
    pairs: Replay
    points: Points
    """Those of the pairs, then those of a KL in velocity space."""
    elsewhere: Latents | None
    """States of the latter, one a trajectory."""
    reference: Tensor | None
    """(N, D) the reference's velocity: ``elsewhere``, or else at the pairs."""
