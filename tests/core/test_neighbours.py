"""Near hashes are found as by comparing each with each, and whoever is left out is near one that is kept."""

from __future__ import annotations

import time

import numpy as np
import pytest

from qi_core.neighbours import Hashes, kept_of, pairs


def crowd(count: int, copies: int, bits: int, seed: int = 0) -> Hashes:
    """Random hashes, and copies of some with up to so many bits turned."""
    dice = np.random.default_rng(seed)
    hashes = dice.integers(0, 2**64, count, dtype=np.uint64)
    which = dice.integers(0, count, copies)
    turned = np.zeros(copies, dtype=np.uint64)
    for number in range(copies):
        for bit in dice.permutation(64)[: dice.integers(0, bits + 1)]:
            turned[number] |= np.uint64(1) << np.uint64(bit)
    return np.concatenate([hashes, hashes[which] ^ turned])


@pytest.mark.parametrize("distance", [0, 3, 4, 7, 8, 11])
def test_the_same_pairs_as_by_comparing_each_with_each(distance: int) -> None:
    hashes = crowd(600, 400, 13, seed=distance)
    hashes[::7] |= np.uint64(0xFFFF)  # a part that many share
    apart = np.bitwise_count(hashes[:, None] ^ hashes[None])
    wanted = {(i, j) for i, j in np.argwhere(apart <= distance).tolist() if i < j}
    found = [pair for i, j in pairs(hashes, distance) for pair in zip(i.tolist(), j.tolist(), strict=True)]
    assert len(found) == len(set(found)), "a pair is found twice"
    assert set(found) == wanted
    assert wanted


def test_who_is_left_out_is_near_one_that_is_kept() -> None:
    hashes = crowd(500, 1500, 5).tolist()
    rank = [(-(number % 97),) for number in range(len(hashes))]
    dropped = kept_of(hashes, rank, 4)
    assert 1000 < len(dropped) < 1501
    for number, (best, bits) in dropped.items():
        assert best not in dropped
        assert (hashes[number] ^ hashes[best]).bit_count() == bits <= 4
        assert rank[best] <= rank[number]
    kept = [hashes[number] for number in range(len(hashes)) if number not in dropped]
    assert not any(True for _ in pairs(np.array(kept, dtype=np.uint64), 4)), "two that are kept are near each other"


def test_a_chain_of_small_steps_does_not_take_the_whole_away() -> None:
    chain = [(1 << step) - 1 for step in range(0, 64, 3)]  # 3 bits from one to the next
    dropped = kept_of(chain, [(number,) for number in range(len(chain))], 4)
    assert [number for number in range(len(chain)) if number not in dropped] == list(range(0, len(chain), 2))


def test_eighty_thousand_take_seconds() -> None:
    hashes = crowd(60_000, 20_000, 4)
    start = time.process_time()
    found = sum(len(i) for i, _ in pairs(hashes, 4))
    assert found >= 18_000
    assert time.process_time() - start < 15
