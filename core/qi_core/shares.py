"""Which part gives the n-th sample: exact shares, in an order without a rhythm.

Seats are given out by the quota method (Balinski and Young, "The quota method of apportionment", American
Mathematical Monthly 82, 1975): after every block each part has had its exact share, rounded up or down. (Largest
remainders within each block would starve a part whose share is less than half a sample a block, and largest remainders
of the running total can take a seat back.)
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from fractions import Fraction
from math import lcm
from typing import Any

from qi_core.source import Ticket

BLOCK = 64
"""Samples over which shares are exact; a checkpoint's position counts in it."""


def whole(weights: Sequence[float | Fraction]) -> tuple[int, ...]:
    """Whole numbers in the same proportion. A float means the decimal number that a person wrote."""
    fractions = [Fraction(repr(weight)) if isinstance(weight, float) else Fraction(weight) for weight in weights]
    common = lcm(*(fraction.denominator for fraction in fractions))
    return tuple(int(fraction * common) for fraction in fractions)


def block(shares: Sequence[int], counts: Sequence[int], length: int) -> list[int]:
    """The parts that give the next ``length`` samples, not yet shuffled. ``counts``: what each has given before."""
    given, total, before = list(counts), sum(shares), sum(counts)
    picks: list[int] = []
    for seat in range(before + 1, before + length + 1):
        chosen = -1
        for i, share in enumerate(shares):
            # Only those that stay within their share of ``seat`` rounded up may get it; of them, the one of the largest
            # share / (given + 1), the first of equals. Multiplied out, since sets may have thousands of parts.
            if given[i] * total < share * seat and (
                chosen < 0 or share * (given[chosen] + 1) > shares[chosen] * (given[i] + 1)
            ):
                chosen = i
        given[chosen] += 1
        picks.append(chosen)
    return picks


def shuffled(picks: Sequence[int], seed: int, number: int) -> list[int]:
    """The picks of block ``number`` in an order of its own."""

    def lot(slot: int) -> bytes:
        return hashlib.blake2b(f"{seed}/{number}/{slot}".encode(), digest_size=8).digest()

    return [picks[slot] for slot in sorted(range(len(picks)), key=lot)]


class Turns:
    """Whose turn it is, sample after sample: an endless sequence that depends on weights and seed alone."""

    def __init__(self, weights: Sequence[float | Fraction], seed: int) -> None:
        self._weights, self._shares, self._seed = [_written(weight) for weight in weights], whole(weights), seed
        self._begin(0, [0] * len(weights), 0)

    def take(self, count: int) -> list[int]:
        """The numbers of the parts that give the next ``count`` samples."""
        return [self._next() for _ in range(count)]

    def state_dict(self) -> dict[str, Any]:
        return {"weights": list(self._weights), "block": self._block, "counts": list(self._counts), "slot": self._slot}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a position. If the weights were others, the new ones hold from here on, and what was given under the
        old ones is not made up for."""
        if state["weights"] == self._weights:
            self._begin(state["block"], state["counts"], state["slot"])
        else:
            self._begin(state["block"] + 1, [0] * len(self._weights), 0)

    def _begin(self, number: int, counts: list[int], slot: int) -> None:
        self._block, self._counts, self._slot = number, list(counts), slot
        self._picks = shuffled(block(self._shares, counts, BLOCK), self._seed, number)

    def _next(self) -> int:
        if self._slot == BLOCK:
            given = Counter(self._picks)
            self._begin(self._block + 1, [count + given[i] for i, count in enumerate(self._counts)], 0)
        self._slot += 1
        return self._picks[self._slot - 1]


def in_turn(order: Sequence[int], plan: Callable[[int, int], list[Ticket]]) -> list[Ticket]:
    """The tickets of a source made of parts: ``order`` says whose turn each is, ``plan(part, count)`` gives a part's
    own next ones; the part's number stands before them."""
    planned = {part: iter(plan(part, count)) for part, count in sorted(Counter(order).items())}
    return [(part, *next(planned[part])) for part in order]


def _written(weight: float | Fraction) -> float | str:
    """As JSON can keep it and give it back."""
    return str(weight) if isinstance(weight, Fraction) else weight
