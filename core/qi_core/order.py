"""Orders of data sets too large to hold one in memory: a permutation of up to 10^12 numbers, as a function.

A generalised Feistel network (Black & Rogaway 2002, "Ciphers with Arbitrary Finite Domains", section 5): a number
x < a b is (l, r) with l = x mod a and r = x // a, and a round turns (l, r) into (r, l + F(r)), modulo a in the one
round and modulo b in the next. Each round can be undone, so the whole is a permutation of a b >= n numbers; where it
leads beyond n it is applied again until it doesn't ("cycle walking"), which leaves a permutation of n. With a near the
root of n, a b exceeds n by less than a, so this is rare.

Nothing is stored, and any position costs the same. All is arithmetic on 64 bits: the same on every machine, for ever.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any

import numpy as np

Numbers = np.ndarray[Any, np.dtype[np.uint64]]

NAME = "feistel-1"
"""Of this construction, kept with positions in it: another one would be called otherwise."""
MOST = 2**40
"""Numbers that it is made for: about 1.1 * 10^12."""
_ROUNDS = 8
"""Four make it as good as random to who doesn't know the round functions (Luby & Rackoff 1988); they are no secret
here, but they should be far from perfect before anybody could see a pattern."""
_BLOCK = 4096
"""Positions computed together: NumPy's calls cost as much for one number as for a thousand."""


class Order:
    """One permutation of the numbers 0 to ``size`` - 1, told by its key alone: ``order[position]``."""

    def __init__(self, key: str, size: int) -> None:
        if not 0 < size <= MOST:
            raise ValueError(f"an order of {size} numbers; wanted 1 to {MOST}")
        self.size = size
        self._a = max(math.isqrt(size - 1) + 1, 2)  # isqrt(n - 1) + 1 is the root of n, rounded up
        self._b = max(-(-size // self._a), 2)
        digest = hashlib.blake2b(f"{NAME}/{key}".encode(), digest_size=8 * _ROUNDS).digest()
        self._keys = np.frombuffer(digest, "<u8").astype(np.uint64)
        self._start, self._block = -1, np.empty(0, np.uint64)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, position: int) -> int:
        """The number at a position. Cheapest where positions follow each other."""
        if not 0 <= position < self.size:
            raise IndexError(position)
        start = position - position % _BLOCK
        if start != self._start:
            block = self.at(np.arange(start, min(start + _BLOCK, self.size), dtype=np.uint64))
            self._start, self._block = start, block
        return int(self._block[position - start])

    def at(self, positions: Numbers) -> Numbers:
        """(N,) positions -> (N,) numbers."""
        found = self._once(positions.astype(np.uint64))
        while len(beyond := np.flatnonzero(found >= np.uint64(self.size))):
            found[beyond] = self._once(found[beyond])
        return found

    def _once(self, x: Numbers) -> Numbers:
        a, b = np.uint64(self._a), np.uint64(self._b)
        left, right = x % a, x // a
        for number, key in enumerate(self._keys):
            left, right = right, (left + _mixed(right, key)) % (b if number % 2 else a)
        # After an even number of rounds the left half is modulo a again.
        return right * a + left


def _mixed(x: Numbers, key: np.uint64) -> Numbers:
    """32 good bits for each number: the finaliser of SplitMix64 (Steele et al. 2014), with a key. (32, so that the sum
    with the other half cannot pass 64 bits.)"""
    with np.errstate(over="ignore"):  # arithmetic modulo 2^64 is what is wanted
        z = (x + key) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return (z ^ (z >> np.uint64(31))) >> np.uint64(32)
