"""Which part gives the n-th sample: exact shares, in an order without a rhythm.

Seats are given out by the quota method (Balinski and Young, "The quota method of apportionment", American
Mathematical Monthly 82, 1975): after every block each part has had its exact share, rounded up or down. (Largest
remainders within each block would starve a part whose share is less than half a sample a block, and largest remainders
of the running total can take a seat back.)

Weights may change from one block to the next. What a part is owed at that moment, a fraction of a sample, is carried
over, so that over a whole curriculum each part has had what its weights, added up block by block, come to. In terms of
time: a part may get its next seat once it is owed some of it, and of those the one whose seat is due first gets it.
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
UNIT = 2**40
"""Of a sample: what is carried over a change of weights is rounded to it, so that its digits don't grow for ever."""


def whole(weights: Sequence[float | Fraction]) -> tuple[int, ...]:
    """Whole numbers in the same proportion. A float means the decimal number that a person wrote."""
    fractions = [Fraction(repr(weight)) if isinstance(weight, float) else Fraction(weight) for weight in weights]
    common = lcm(*(fraction.denominator for fraction in fractions))
    return tuple(int(fraction * common) for fraction in fractions)


def block(shares: Sequence[int], counts: Sequence[int], length: int, owed: Sequence[int] = ()) -> list[int]:
    """The parts that give the next ``length`` samples, not yet shuffled.

    ``counts``: what each has given since these shares hold. ``owed``: what each was owed then, in UNITs; together 0,
    and nothing to parts without a share.
    """
    unit = UNIT if any(owed) else 1
    owed = owed if any(owed) else [0] * len(shares)
    total, before = sum(shares), sum(counts)
    # Multiplied out, since sets may have thousands of parts: what each was given beyond what it was owed, by ``total``,
    # and what it must become due until its next sample is.
    had = [(count * unit - own) * total for count, own in zip(counts, owed, strict=True)]
    lacks = [(count + 1) * unit - own for count, own in zip(counts, owed, strict=True)]
    picks: list[int] = []
    for seat in range(before + 1, before + length + 1):
        chosen, due = -1, seat * unit
        for i, share in enumerate(shares):
            # Only those that stay within what they are due, rounded up, may get the seat; of them, the one that is due
            # a whole one after the fewest seats, the first of equals.
            if had[i] < share * due and (chosen < 0 or lacks[i] * shares[chosen] < lacks[chosen] * share):
                chosen = i
        had[chosen] += unit * total
        lacks[chosen] += unit
        picks.append(chosen)
    return picks


def carried(shares: Sequence[int], counts: Sequence[int], owed: Sequence[int], after: Sequence[int]) -> list[int]:
    """What each part is owed when ``after`` are the shares, in UNITs; together 0. What a part without a share then is
    owed goes to the others, in proportion."""
    seats, total = sum(counts), sum(shares)
    found = [o + share * seats * UNIT // total - n * UNIT for o, share, n in zip(owed, shares, counts, strict=True)]
    free = -sum(found) + sum(own for own, share in zip(found, after, strict=True) if not share)  # -: lost by rounding
    found = [own + free * share // sum(after) if share else 0 for own, share in zip(found, after, strict=True)]
    found[next(i for i, share in enumerate(after) if share)] -= sum(found)
    return found


def shuffled(picks: Sequence[int], seed: int, number: int) -> list[int]:
    """The picks of block ``number`` in an order of its own."""

    def lot(slot: int) -> bytes:
        return hashlib.blake2b(f"{seed}/{number}/{slot}".encode(), digest_size=8).digest()

    return [picks[slot] for slot in sorted(range(len(picks)), key=lot)]


class Turns:
    """Whose turn it is, sample after sample: an endless sequence that depends on weights and seed alone."""

    def __init__(self, weights: Sequence[float | Fraction], seed: int) -> None:
        self._settings, self._seed = _written(weights), seed
        self._weights, self._next = list(self._settings), list(self._settings)
        """Of the block at hand and of the one after it."""
        self._shares = _shares(self._settings)
        self._owed, self._counts = [0] * len(weights), [0] * len(weights)
        """What each part was owed when these weights began to hold, and gave since then, before the block at hand."""
        self._block = self._slot = 0
        self._picks: list[int] = []
        """Of the block at hand; empty before it begins."""

    def take(self, count: int) -> list[int]:
        """The numbers of the parts that give the next ``count`` samples."""
        return [self._turn() for _ in range(count)]

    def weigh(self, weights: Sequence[float | Fraction]) -> None:
        """Other weights hold from the next block on, until told otherwise. At least one is above 0."""
        self._next = _written(weights)
        if not self._picks:
            self._change()

    def state_dict(self) -> dict[str, Any]:
        state = {"weights": self._settings, "block": self._block, "counts": list(self._counts), "slot": self._slot}
        more: dict[str, list[Any]] = {"now": self._weights, "next": self._next, "owed": self._owed}
        told = self._weights != self._settings or self._next != self._settings or any(self._owed)
        return state | {key: list(value) for key, value in more.items()} if told else state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a position. If the weights that it was built with were others, the new ones hold from here on; what was
        due under the old ones is made up for, unless parts are gone."""
        settings, count = self._settings, len(self._settings)
        built: list[float | str] = state["weights"]
        self._weights, self._next = list(state.get("now", built)), list(state.get("next", built))
        self._shares, self._counts = _shares(self._weights), list(state["counts"])
        self._owed = list(state["owed"]) if "owed" in state else [0] * len(self._counts)
        self._block, self._slot = state["block"], state["slot"]
        self._picks = []
        if self._slot:
            self._begin()
        if built == settings:
            return
        self._end()
        self._next = list(settings)
        if len(self._counts) > count:
            self._weights, self._shares, self._owed = list(settings), _shares(settings), [0] * count
            self._counts = [0] * count
        else:
            new = [0] * (count - len(self._counts))
            self._weights += new
            self._shares, self._owed, self._counts = (*self._shares, *new), self._owed + new, self._counts + new
            self._change()

    def _turn(self) -> int:
        if self._slot == BLOCK:
            self._end()
            self._change()
        if not self._picks:
            self._begin()
        self._slot += 1
        return self._picks[self._slot - 1]

    def _begin(self) -> None:
        self._picks = shuffled(block(self._shares, self._counts, BLOCK, self._owed), self._seed, self._block)

    def _end(self) -> None:
        """Of the block, wherever it stands."""
        given = Counter(self._picks[: self._slot])
        self._counts = [count + given[i] for i, count in enumerate(self._counts)]
        self._block, self._slot, self._picks = self._block + 1, 0, []

    def _change(self) -> None:
        """To the weights that were told last."""
        if self._next != self._weights:
            shares = _shares(self._next)
            self._owed = carried(self._shares, self._counts, self._owed, shares)
            self._weights, self._shares, self._counts = list(self._next), shares, [0] * len(shares)


def in_turn(order: Sequence[int], plan: Callable[[int, int], list[Ticket]]) -> list[Ticket]:
    """The tickets of a source made of parts: ``order`` says whose turn each is, ``plan(part, count)`` gives a part's
    own next ones; the part's number stands before them."""
    planned = {part: iter(plan(part, count)) for part, count in sorted(Counter(order).items())}
    return [(part, *next(planned[part])) for part in order]


def _written(weights: Sequence[float | Fraction]) -> list[float | str]:
    """As JSON can keep it and give it back."""
    return [str(weight) if isinstance(weight, Fraction) else weight for weight in weights]


def _shares(written: Sequence[float | str]) -> tuple[int, ...]:
    return whole([Fraction(weight) if isinstance(weight, str) else weight for weight in written])
