"""Trajectories as one packed batch, and what the policy says of them now."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from attrs import frozen
from torch import Tensor

from qi_core import Condition, Denoiser, DenoiserModule, Dice, Guidance, Latents, QiError, Rollout, Rollouts
from qi_core.denoiser import Called
from qi_core.flow import Guided
from qi_core.rollouts import NoisyStep
from qi_core.sampler import StochasticSampler
from qi_core.stochastic import step_law


@frozen(kw_only=True, eq=False)
class Points:
    """Where the denoiser is asked, packed."""

    x: Latents
    t: Tensor
    """One a sample."""
    condition: Condition
    negative: Condition | None
    guidance: Guidance

    def velocity(self, denoiser: DenoiserModule) -> Tensor:
        """(N, D) float32, guided if there is a negative."""
        asked: Denoiser = Called(denoiser)
        if self.negative is not None:
            asked = Guided(asked, self.negative, self.guidance)
        return asked.velocity(self.x, self.t, self.condition).tokens.float()

    def and_(self, other: Points) -> Points:
        """Both, for one forward pass."""
        negatives = [own for own in (self.negative, other.negative) if own is not None]
        return Points(
            x=Latents.cat([self.x, other.x]),
            t=torch.cat([self.t, other.t]),
            condition=Condition.cat([self.condition, other.condition]),
            negative=Condition.cat(negatives) if negatives else None,
            guidance=self.guidance,
        )


@frozen(kw_only=True, eq=False)
class Replay:
    """P pairs of a trajectory and one of its noisy steps; those of a trajectory stand together, in order."""

    points: Points
    """The states before."""
    x_next: Latents
    """(N, D) the states after."""
    t_next: Tensor
    """(P,)."""
    mean: Tensor
    """(N, D) of the law that ``x_next`` was drawn from."""
    counts: tuple[int, ...]
    """Pairs of each trajectory."""
    sampler: StochasticSampler

    def law(self, velocity: Tensor) -> tuple[Tensor, Tensor]:
        """(mean (N, D), std (P,)) of each step, for these velocities: the sampler's own arithmetic."""
        every = torch.ones(len(self.t_next), dtype=torch.bool, device=self.t_next.device)
        return step_law(self.sampler, self.points.x, velocity, self.points.t, self.t_next, every)

    @property
    def dt(self) -> Tensor:
        """(P,)."""
        return self.t_next - self.points.t

    def by_pair(self, values: Tensor) -> Tensor:
        """(B,) one a trajectory -> (P,)."""
        counts = torch.tensor(self.counts, device=values.device)
        return torch.repeat_interleave(values, counts, output_size=sum(self.counts))

    def by_trajectory(self, values: Tensor) -> Tensor:
        """(P,) -> (B,) the mean over the steps of each trajectory."""
        if len(set(self.counts)) == 1:
            return values.reshape(len(self.counts), -1).mean(dim=1)
        return torch.stack([own.mean() for own in torch.split(values, list(self.counts))])


def replay(batch: Rollouts, guided: bool, steps: int, dice: Dice, device: torch.device) -> Replay:
    """The trajectories of a batch. ``steps``: see ``Grpo.steps``. Raises QiError where there is nothing to replay."""
    if batch.sampler is None:
        raise QiError(
            "objective grpo: these rollouts were drawn by a sampler that adds no noise, so no step has a probability; "
            'set the source\'s sampler to "exact-sde" (or flow-sde, dance-sde, cps), or take objective nft or awm'
        )
    chosen = [_choose(item, steps, dice, slot) for item, slot in zip(batch, batch.slots, strict=True)]
    pairs = [(item, step) for item, own in zip(batch, chosen, strict=True) for step in own]
    grids = tuple(item.latents.grids[0] for item, _ in pairs)
    floats = {"dtype": torch.float32, "device": device}
    return Replay(
        points=points(
            [item for item, _ in pairs],
            Latents(tokens=torch.cat([step.x for _, step in pairs]).to(device), grids=grids),
            torch.tensor([step.t for _, step in pairs], **floats),  # type: ignore[arg-type]
            batch.guidance if guided else None,
        ),
        x_next=Latents(tokens=torch.cat([step.x_next for _, step in pairs]).to(device), grids=grids),
        t_next=torch.tensor([step.t_next for _, step in pairs], **floats),  # type: ignore[arg-type]
        mean=torch.cat([step.mean for _, step in pairs]).to(device),
        counts=tuple(map(len, chosen)),
        sampler=batch.sampler,
    )


def points(items: Sequence[Rollout], x: Latents, t: Tensor, guidance: Guidance | None) -> Points:
    """The denoiser is asked at ``x``, one sample an item, about what the item was drawn for."""
    negatives = [item.negative for item in items if item.negative is not None] if guidance is not None else []
    device = x.tokens.device
    return Points(
        x=x,
        t=t,
        condition=Condition.cat([item.condition for item in items]).to(device),
        negative=Condition.cat(negatives).to(device) if negatives else None,
        guidance=guidance or Guidance(scale=1.0),
    )


def _choose(item: Rollout, steps: int, dice: Dice, slot: int) -> tuple[NoisyStep, ...]:
    """All of its noisy steps, or ``steps`` of them."""
    if not item.steps:
        raise QiError(
            f"objective grpo: {item.key}: no step of this picture has noise, so none has a probability; wanted one at "
            "least; give the sampler some noise, and a window with more in it than the last step"
        )
    if not steps or steps >= len(item.steps):
        return item.steps
    lots = torch.randperm(len(item.steps), generator=dice.roll(slot, "steps"))[:steps].sort().values
    return tuple(item.steps[i] for i in lots.tolist())
