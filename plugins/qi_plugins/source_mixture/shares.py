"""Which part gives the n-th sample: exact shares, in an order without a rhythm.

Seats are given out by the quota method (Balinski and Young, "The quota method of apportionment", American
Mathematical Monthly 82, 1975): after every block each part has had its exact share, rounded up or down. (Largest
remainders within each block would starve a part whose share is less than half a sample a block, and largest remainders
of the running total can take a seat back.)
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from fractions import Fraction
from math import lcm


def whole(weights: Sequence[float]) -> tuple[int, ...]:
    """Whole numbers in the same proportion. A weight means the decimal number that a person wrote."""
    fractions = [Fraction(repr(weight)) for weight in weights]
    common = lcm(*(fraction.denominator for fraction in fractions))
    return tuple(int(fraction * common) for fraction in fractions)


def block(shares: Sequence[int], counts: Sequence[int], length: int) -> list[int]:
    """The parts that give the next ``length`` samples, not yet shuffled. ``counts``: what each has given before."""
    given, total, before = list(counts), sum(shares), sum(counts)
    picks: list[int] = []
    for seat in range(before + 1, before + length + 1):
        # Only those that stay within their share of ``seat`` rounded up may get it.
        below = [i for i, share in enumerate(shares) if given[i] * total < share * seat]
        chosen = max(below, key=lambda i: (Fraction(shares[i], given[i] + 1), -i))
        given[chosen] += 1
        picks.append(chosen)
    return picks


def shuffled(picks: Sequence[int], seed: int, number: int) -> list[int]:
    """The picks of block ``number`` in an order of its own."""

    def lot(slot: int) -> bytes:
        return hashlib.blake2b(f"{seed}/{number}/{slot}".encode(), digest_size=8).digest()

    return [picks[slot] for slot in sorted(range(len(picks)), key=lot)]
