"""Pictures that were drawn, with fresh noise at a random time: what needs no trajectory."""

from __future__ import annotations

from typing import Literal

import torch
from attrs import frozen
from torch import Tensor

from qi_core import Dice, Guidance, Latents, Models, Rollouts, Shift, flow
from qi_plugins.objective_grpo.names import OLD, REFERENCE
from qi_plugins.objective_grpo.replay import Points, points


@frozen(kw_only=True, eq=False)
class Noised:
    """K draws of each of B pictures; those of a picture stand together."""

    points: Points
    """x_t, one sample a draw."""
    data: Tensor
    """(N, D) x_0 behind it."""
    target: Tensor
    """(N, D) x_0 - x_1."""
    draws: int

    @property
    def x(self) -> Latents:
        return self.points.x

    def by_picture(self, values: Tensor) -> Tensor:
        """(B * K,) -> (B,) the mean over the draws of each picture."""
        return values.reshape(-1, self.draws).mean(dim=1)

    def by_draw(self, values: Tensor) -> Tensor:
        """(B,) one a picture -> (B * K,)."""
        return values.repeat_interleave(self.draws)


def noised(
    batch: Rollouts,
    dice: Dice,
    device: torch.device,
    *,
    draws: int = 1,
    times: Literal["uniform", "logit-normal"] = "uniform",
    shift: Shift = "none",
    guidance: Guidance | None = None,
) -> Noised:
    """Each picture at ``draws`` times, each with noise of its own; drawn for each slot by itself."""
    items = [item for item in batch for _ in range(draws)]
    data = Latents.cat([item.latents for item in items])
    generators = [dice.roll(slot, f"noise/{draw}") for slot in batch.slots for draw in range(draws)]
    t, noise = flow.draw(data, generators, times, shift=shift)
    data, t, noise = data.to(device), t.to(device), noise.to(device)
    x_t = data.with_tokens(flow.interpolate(data.tokens, noise, data.per_token(t)))
    return Noised(
        points=points(items, x_t, t, guidance),
        data=data.tokens,
        target=flow.velocity_target(data.tokens, noise),
        draws=draws,
    )


@frozen(kw_only=True, eq=False)
class Prepared:
    """What the losses of nft and awm work on."""

    batch: Rollouts
    noised: Noised
    old: Tensor
    """(N, D) the old policy's velocity."""
    reference: Tensor | None
    """(N, D) the reference's."""


def prepared(
    batch: Rollouts,
    models: Models,
    dice: Dice,
    *,
    draws: int,
    times: Literal["uniform", "logit-normal"],
    shift: Shift,
    reference: Literal["start", "base", "none"],
) -> Prepared:
    """Noised pictures, and what the old policy and the reference, if there is one, say of them."""
    noise = noised(batch, dice, models.strategy.device, draws=draws, times=times, shift=shift)
    with models.as_of(OLD) as before:
        old = noise.points.velocity(before)
    told = None
    if reference != "none":
        with models.as_of(REFERENCE if reference == "start" else reference) as before:
            told = noise.points.velocity(before)
    return Prepared(batch=batch, noised=noise, old=old, reference=told)
