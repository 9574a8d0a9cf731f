"""Pairs with noise, as the model and its reference see them. B pairs are 2B pictures: B winners, then B losers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from attrs import field, frozen
from torch import Tensor

from qi_core import Condition, Denoiser, EncodedPairs, Encoders, Latents, Pairs, QiError, flow

Draw: TypeAlias = "Callable[[Latents, list[torch.Generator]], tuple[Tensor, Tensor]]"
"""Times (B,) and noise (N, D) beside the latents of B pictures, a generator each."""


@frozen(kw_only=True, eq=False)
class Noised:
    """What both models are asked, and what the reference answered."""

    x_t: Latents
    """(2N, D)."""
    t: Tensor
    """(2B,): the same B times twice."""
    target: Tensor
    """(2N, D) the velocity that would be right."""
    condition: Condition
    """Of 2B samples."""
    reference: Tensor = field(factory=lambda: torch.empty(0))
    """(2B,) the reference's squared errors."""


def encode(batch: Pairs, prompts: Sequence[str], encoders: Encoders) -> EncodedPairs:
    """Winners, then losers, in one call. Raises QiError unless both pictures of a pair have one size."""
    pictures = [pair.winner for pair in batch] + [pair.loser for pair in batch]
    images = [picture for picture in pictures if isinstance(picture, Tensor)]
    encoded = iter(encoders.autoencoder.encode(images).split() if images else ())
    latents = [next(encoded) if isinstance(picture, Tensor) else picture for picture in pictures]
    winners, losers = latents[: len(batch)], latents[len(batch) :]
    for pair, winner, loser in zip(batch, winners, losers, strict=True):
        if winner.grids != loser.grids:
            raise QiError(
                f"pair {pair.key!r}: the winner is {winner.grids[0]} tokens (frames, rows, columns), the loser "
                f"{loser.grids[0]}; wanted pictures of one size, so that they can share their noise; fit both to one"
            )
    references = [pair.references for pair in batch]
    condition = encoders.condition(prompts, references if any(references) else ())
    device = condition.text.device
    return EncodedPairs(
        keys=tuple(pair.key for pair in batch),
        slots=batch.slots,
        winners=Latents.cat([one.to(device) for one in winners]),
        losers=Latents.cat([one.to(device) for one in losers]),
        condition=condition,
        stored=tuple(pair.stored for pair in batch),
    )


def noised(pairs: EncodedPairs, generators: list[torch.Generator], draw: Draw) -> Noised:
    """One time and one noise a pair. With noises of their own the difference of two errors is mostly noise."""
    data = Latents.cat([pairs.winners, pairs.losers])
    t, noise = (torch.cat([one, one]) for one in draw(pairs.winners, generators))
    x_t = flow.interpolate(data.tokens, noise, data.per_token(t))
    return Noised(
        x_t=data.with_tokens(x_t),
        t=t,
        target=flow.velocity_target(data.tokens, noise),
        condition=Condition.cat([pairs.condition, pairs.condition]),
    )


def squared_errors(denoiser: Denoiser, pairs: Noised) -> Tensor:
    """(2B,) |v - target|^2, the mean over each picture's values."""
    # Called, if it can be: strategies hook into a module's call.
    ask = denoiser if isinstance(denoiser, torch.nn.Module) else denoiser.velocity
    v = ask(pairs.x_t, pairs.t, pairs.condition).tokens.float()
    return pairs.x_t.sample_mean((v - pairs.target).square())
