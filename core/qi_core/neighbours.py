"""Hashes of 64 bits that differ in few: all such pairs of millions, without comparing each with each.

Multi-index hashing (Norouzi, Punjani and Fleet 2012, "Fast search in Hamming space with multi-index hashing"): cut into
4 parts of 16 bits, two hashes that differ in r bits have one part that differs in r // 4 at most. So only those are
compared that have nearly the same bits in some part.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
PARTS, BITS = 4, 16
FARTHEST = 11
"""Bits: beyond, parts may differ in 3 bits, and a search by them is as slow as comparing each with each."""
_AT_ONCE = 2**22  # comparisons: bounds memory


def pairs(hashes: Hashes, distance: int) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """(N,) -> in pieces, numbers i and j > i of those that differ in ``distance`` bits or fewer; none twice.

    Equal ones should be taken for one beforehand: of n alike there are n (n - 1) / 2 pairs.
    """
    if not 0 <= distance <= FARTHEST:
        raise ValueError(f"'distance' is {distance}; wanted 0 to {FARTHEST}")
    for part in range(PARTS):
        own = (hashes >> np.uint64(part * BITS)).astype(np.uint16)
        order = np.argsort(own, kind="stable")
        for mask in _masks(distance // PARTS):
            for i, j in _joined(own, order, mask):
                differ = np.bitwise_count(hashes[i] ^ hashes[j]) <= distance
                i, j = i[differ], j[differ]
                fresh = ~_found_before(hashes[i] ^ hashes[j], part, distance // PARTS)
                if fresh.any():
                    yield np.minimum(i, j)[fresh], np.maximum(i, j)[fresh]


def kept_of(hashes: Sequence[int], rank: Sequence[tuple[int, ...]], distance: int) -> dict[int, tuple[int, int]]:
    """Of hashes with a rank each (the lowest is the best), those to leave out: number -> (whom it is a duplicate of,
    bits that differ). Who is kept is decided from the best on, so that no chain of small steps takes the whole away:
    whoever is left out is a near-duplicate of one that is kept."""
    order = sorted(range(len(hashes)), key=lambda number: rank[number])
    first: dict[int, int] = {}
    dropped: dict[int, tuple[int, int]] = {}
    for number in order:
        if (best := first.setdefault(hashes[number], number)) != number:
            dropped[number] = (best, 0)
    distinct = np.array(sorted(first), dtype=np.uint64)
    near: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for i, j in pairs(distinct, distance):
        apart = np.bitwise_count(distinct[i] ^ distinct[j])
        for one, other, bits in zip(distinct[i].tolist(), distinct[j].tolist(), apart.tolist(), strict=True):
            near[first[one]].append((bits, first[other]))
            near[first[other]].append((bits, first[one]))
    place = {number: at for at, number in enumerate(order)}
    for number in order:
        if number in dropped or number not in near:
            continue
        for bits, other in near[number]:
            if place[other] > place[number] and other not in dropped:
                dropped[other] = (number, bits)
    # Equal ones follow the one that stands for them.
    for number, (best, bits) in list(dropped.items()):
        if bits == 0 and best in dropped:
            dropped[number] = dropped[best]
    return dropped


def _masks(radius: int) -> list[int]:
    """Bits of a part that may differ."""
    return [sum(1 << bit for bit in bits) for count in range(radius + 1) for bits in combinations(range(BITS), count)]


def _joined(
    own: NDArray[np.uint16], order: NDArray[np.intp], mask: int
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Pairs whose parts differ in exactly the bits of the mask."""
    values = own[order]
    wanted = values ^ np.uint16(mask)
    start, end = np.searchsorted(values, wanted, "left"), np.searchsorted(values, wanted, "right")
    if mask:  # each pair stands here twice, once from either side
        keep = values < wanted
        start, end = np.where(keep, start, 0), np.where(keep, end, 0)
    else:
        start = np.arange(1, len(values) + 1)
    counts = np.maximum(end - start, 0)
    ends = np.cumsum(counts)
    begin = 0
    while begin < len(counts):
        base = int(ends[begin - 1]) if begin else 0
        stop = max(int(np.searchsorted(ends, base + _AT_ONCE, "right")), begin + 1)
        some = counts[begin:stop]
        left = np.repeat(np.arange(begin, stop), some)
        offset = np.arange(len(left)) - np.repeat(ends[begin:stop] - some - base, some)
        yield order[left], order[start[left] + offset]
        begin = stop


def _found_before(differ: Hashes, part: int, radius: int) -> NDArray[np.bool_]:
    """Whether a pair with these bits differing was found by an earlier part already."""
    found = np.zeros(len(differ), dtype=np.bool_)
    for earlier in range(part):
        bits = (differ >> np.uint64(earlier * BITS)) & np.uint64(2**BITS - 1)
        found |= np.bitwise_count(bits) <= radius
    return found
