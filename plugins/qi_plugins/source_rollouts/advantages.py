"""From rewards to advantages. Deviations are those of the whole population (divided by n, as the group is all there
is of it)."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qi_plugins.source_rollouts.component import Advantage

Groups = Sequence[int]
"""Whose group each picture is in."""


def mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def deviation(values: Sequence[float]) -> float:
    """0, exactly, where all are equal."""
    if min(values) == max(values):
        return 0.0
    centre = mean(values)
    return math.sqrt(math.fsum((value - centre) ** 2 for value in values) / len(values))


def members(groups: Groups) -> dict[int, list[int]]:
    """Group -> positions of its pictures."""
    found: defaultdict[int, list[int]] = defaultdict(list)
    for position, group in enumerate(groups):
        found[group].append(position)
    return dict(found)


def centred(rewards: Sequence[float], groups: Groups) -> list[float]:
    """r - mean_group; 0, exactly, in groups whose rewards are all equal."""
    values = [0.0] * len(rewards)
    for own in members(groups).values():
        inside = [rewards[i] for i in own]
        if deviation(inside):
            for i in own:
                values[i] = rewards[i] - mean(inside)
    return values


def by_group(rewards: Sequence[float], groups: Groups, eps: float) -> list[float]:
    """(r - mean_group) / (std_group + eps): Qwen-Image report (arXiv 2508.02324), eq. 4."""
    values = centred(rewards, groups)
    for own in members(groups).values():
        if spread := deviation([rewards[i] for i in own]):
            for i in own:
                values[i] /= spread + eps
    return values


def by_all(rewards: Sequence[float], groups: Groups, eps: float) -> list[float]:
    """(r - mean_group) / (std_all + eps): what Flow-GRPO (arXiv 2505.05470) ships. Groups that differ little count for
    little."""
    spread = deviation(rewards)
    return [value / (spread + eps) if value else 0.0 for value in centred(rewards, groups)]


def by_none(rewards: Sequence[float], groups: Groups, eps: float) -> list[float]:
    """r - mean_group: Dr. GRPO (arXiv 2503.20783), without the bias toward groups that differ little."""
    return centred(rewards, groups)


_SINGLE: Mapping[Advantage, Callable[[Sequence[float], Groups, float], list[float]]] = {
    "group": by_group,
    "global": by_all,
    "mean": by_none,
}


def each_by_itself(
    rewards: Sequence[Sequence[float]], weights: Sequence[float], groups: Groups, eps: float
) -> list[float]:
    """GDPO (arXiv 2601.05242): each reward by its group's mean and deviation, their weighted sum, and that by the
    deviation of all. (The paper takes the mean of all off too: it is 0 already, as each group's is.)"""
    whitened = [by_group(one, groups, eps) for one in rewards]
    summed = [math.fsum(w * a for w, a in zip(weights, each, strict=True)) for each in zip(*whitened, strict=True)]
    spread = deviation(summed)
    return [value / (spread + eps) if spread else 0.0 for value in summed]


def advantages(
    kind: Advantage, rewards: Sequence[Sequence[float]], weights: Sequence[float], groups: Groups, eps: float
) -> list[float]:
    """One a picture. ``rewards``: for each reward that counts, one value a picture."""
    if not groups:
        return []
    if kind == "per-reward":
        return each_by_itself(rewards, weights, groups, eps)
    return _SINGLE[kind](totals(rewards, weights), groups, eps)


def totals(rewards: Sequence[Sequence[float]], weights: Sequence[float]) -> list[float]:
    """The weighted sum of each picture's rewards."""
    return [math.fsum(w * r for w, r in zip(weights, each, strict=True)) for each in zip(*rewards, strict=True)]


def ties(rewards: Sequence[Sequence[float]], weights: Sequence[float], groups: Groups, apart: bool) -> set[int]:
    """Groups with nothing to compare: one picture alone, or pictures of equal worth.

    ``apart``: rewards are compared one by one, so a group is tied only if each of them is.
    """
    compared = rewards if apart else [totals(rewards, weights)]
    return {
        group
        for group, own in members(groups).items()
        if all(deviation([reward[i] for i in own]) == 0 for reward in compared)
    }
