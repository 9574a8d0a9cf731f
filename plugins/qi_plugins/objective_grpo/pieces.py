"""The choices of ``grpo``, each by itself, so that any goes with any.

P: pairs of a trajectory and one of its noisy steps. A step of the old and of the new policy has the same deviation and
another mean, so all that matters is how far the mean moved, and how far toward the state that was drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, TypeAlias

import torch
from attrs import frozen
from torch import Tensor

from qi_core import Latents

Ratio: TypeAlias = Literal["plain", "guard"]
Trust: TypeAlias = Literal["clip", "kl-mask", "none"]
Weight: TypeAlias = Literal["none", "inverse-dt", "noise"]


@frozen(kw_only=True, eq=False)
class Move:
    """From the old policy to the new one, at each pair. All (P,), and all means over a picture's values."""

    log_ratio: Tensor
    """log p_new(x') - log p_old(x')."""
    kl: Tensor
    """KL(new || old) = |mean_new - mean_old|^2 / (2 std^2)."""
    std: Tensor
    """Of the step."""

    @staticmethod
    def of(x_next: Latents, mean: Tensor, old: Tensor, std: Tensor) -> Move:
        """``x_next``: the state that was drawn; ``mean``, ``old``: (N, D), by the new and the old policy.

        The difference of two log-densities is worked out by hand: it loses no digits, and is 0 exactly where nothing
        moved. |x' - old|^2 - |x' - mean|^2 = (mean - old) (2 (x' - old) - (mean - old)).
        """
        moved = mean - old
        toward = moved * (2 * (x_next.tokens - old) - moved)
        variance = 2 * std.square()
        return Move(
            log_ratio=x_next.sample_mean(toward) / variance,
            kl=x_next.sample_mean(moved.square()) / variance,
            std=std,
        )


def plain(move: Move) -> Tensor:
    """exp(log p_new - log p_old), the log-probabilities means over the values."""
    return move.log_ratio.exp()


def guard(move: Move) -> Tensor:
    """exp((log p_new - log p_old + KL) std): GRPO-Guard (arXiv 2510.22319), eq. 8.

    The plain log-ratio is eps (d mean)/std - KL: below 0 on average, and of another spread at each step. Without the KL
    and times std it is eps (d mean), centred, and one clip range fits all steps.
    """
    return ((move.log_ratio + move.kl) * move.std).exp()


RATIOS: Mapping[Ratio, Callable[[Move], Tensor]] = {"plain": plain, "guard": guard}


@frozen(kw_only=True, eq=False)
class Bounded:
    """The policy's loss after the trust region, and where it holds back: all (P,)."""

    loss: Tensor
    low: Tensor
    """Bool: what has become too unlikely already, and should become more so."""
    high: Tensor
    """Bool: what has become too likely already, and should become more so."""


@frozen(kw_only=True, eq=False)
class Bounds:
    """How far the policy may move in one rollout."""

    low: Tensor
    """(P,) the ratio may fall to 1 - low."""
    high: Tensor
    """(P,) the ratio may rise to 1 + high."""
    kl: float
    """For ``kl-mask``."""


def clip(ratio: Tensor, advantage: Tensor, kl: Tensor, bounds: Bounds) -> Bounded:
    """-min(r A, clip(r, 1 - low, 1 + high) A): PPO (arXiv 1707.06347), eq. 7; the report's eq. 5."""
    inside = torch.maximum(torch.minimum(ratio, 1 + bounds.high), 1 - bounds.low)
    return Bounded(
        loss=-torch.minimum(ratio * advantage, inside * advantage),
        low=(ratio < 1 - bounds.low) & (advantage < 0),
        high=(ratio > 1 + bounds.high) & (advantage > 0),
    )


def kl_mask(ratio: Tensor, advantage: Tensor, kl: Tensor, bounds: Bounds) -> Bounded:
    """-r A, but nothing of a step whose KL is too large already and that would move on: Flow-DPPO (arXiv 2606.11025).

    A step that leads back is never held.
    """
    far = kl.detach() >= bounds.kl
    low, high = far & (ratio < 1) & (advantage < 0), far & (ratio > 1) & (advantage > 0)
    return Bounded(loss=torch.where(low | high, 0.0, -ratio * advantage), low=low, high=high)


def unbounded(ratio: Tensor, advantage: Tensor, kl: Tensor, bounds: Bounds) -> Bounded:
    """-r A."""
    never = torch.zeros_like(ratio, dtype=torch.bool)
    return Bounded(loss=-ratio * advantage, low=never, high=never)


TRUSTS: Mapping[Trust, Callable[[Tensor, Tensor, Tensor, Bounds], Bounded]] = {
    "clip": clip,
    "kl-mask": kl_mask,
    "none": unbounded,
}
"""``kl``: (P,) from the old policy."""


def no_weight(dt: Tensor, std: Tensor, mean: Callable[[Tensor], Tensor]) -> Tensor:
    """All steps alike."""
    return torch.ones_like(dt)


def inverse_dt(dt: Tensor, std: Tensor, mean: Callable[[Tensor], Tensor]) -> Tensor:
    """1 / dt: GRPO-Guard, as its authors' code has it (not brought to a mean of 1)."""
    return 1 / dt


def noise_level(dt: Tensor, std: Tensor, mean: Callable[[Tensor], Tensor]) -> Tensor:
    """std over its mean in the trajectory: more for steps that explore more, after TempFlow-GRPO (arXiv 2508.04324)."""
    return std / mean(std)


WEIGHTS: Mapping[Weight, Callable[[Tensor, Tensor, Callable[[Tensor], Tensor]], Tensor]] = {
    "none": no_weight,
    "inverse-dt": inverse_dt,
    "noise": noise_level,
}
"""``mean``: (P,) -> (P,) the mean over the steps of each one's trajectory."""
