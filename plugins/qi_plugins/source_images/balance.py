"""How much of a run each category of a hierarchy gets. Exact fractions, so that the shares are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from itertools import groupby
from typing import Literal, TypeAlias

Rule: TypeAlias = Literal["natural", "uniform", "power"]
_Leaf: TypeAlias = tuple[str, tuple[str, ...], Fraction]  # the category, its path, what it counts


def shares(counts: Mapping[str, Fraction], rule: Rule, exponent: float, levels: bool) -> dict[str, Fraction]:
    """The share of each category; together 1.

    Siblings weigh as their counts (natural), alike (uniform) or as count ** exponent (power). ``levels``: siblings are
    those that stand under one parent, level by level, and what a category holds beside its children counts as one more
    child. Otherwise all categories are siblings.
    """

    def weight(count: Fraction) -> Fraction:
        if rule == "power":  # rounded, since the last bits of a power differ between machines
            return Fraction(repr(round(float(count) ** exponent, 6)))
        return count if rule == "natural" else Fraction(1)

    if not levels:
        weights = {name: weight(count) for name, count in counts.items()}
        return {name: own / sum(weights.values()) for name, own in weights.items()}

    def split(leaves: Sequence[_Leaf], depth: int, share: Fraction) -> dict[str, Fraction]:
        if len(leaves) == 1:
            return {leaves[0][0]: share}
        groups = [list(group) for _, group in groupby(leaves, key=lambda leaf: leaf[1][depth : depth + 1])]
        weights = [weight(sum((count for _, _, count in group), Fraction(0))) for group in groups]
        found: dict[str, Fraction] = {}
        for group, own in zip(groups, weights, strict=True):
            found |= split(group, depth + 1, share * own / sum(weights))
        return found

    leaves = sorted(((name, tuple(name.split("/")), count) for name, count in counts.items()), key=lambda leaf: leaf[1])
    found = split(leaves, 0, Fraction(1))
    return {name: found[name] for name in counts}


def capped(given: Mapping[str, Fraction], counts: Mapping[str, Fraction], repeats: Fraction) -> dict[str, Fraction]:
    """No category is drawn more than ``repeats`` (at least 1) times as often as its count alone would have it.

    What is cut off goes to the others in proportion to their shares.
    """
    total = sum(counts.values())
    most = {name: repeats * count / total for name, count in counts.items()}
    found, full = dict(given), set[str]()
    while over := {name for name in found if name not in full and found[name] > most[name]}:
        full |= over
        free = {name: share for name, share in given.items() if name not in full}
        left = 1 - sum(most[name] for name in full)
        found = {name: most[name] for name in full} | {
            name: share * left / sum(free.values()) for name, share in free.items()
        }
    return {name: found[name] for name in given}
