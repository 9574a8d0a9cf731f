"""Orders as functions: permutations that need no memory and look like chance."""

from __future__ import annotations

import numpy as np
import pytest

from qi_core.order import MOST, NAME, Order


def all_of(order: Order) -> np.ndarray:
    return order.at(np.arange(len(order), dtype=np.uint64))


@pytest.mark.parametrize("size", [*range(1, 70), 1000, 4096, 65_537, 1_000_003])
def test_every_number_stands_at_one_position(size: int) -> None:
    assert np.array_equal(np.sort(all_of(Order("seed", size))), np.arange(size))


def test_a_position_may_be_asked_for_alone_or_with_others_in_any_order() -> None:
    order = Order("seed", 10_000)
    whole = all_of(order)
    assert [order[position] for position in (9_999, 0, 5_000, 4_095, 4_096)] == [
        int(whole[position]) for position in (9_999, 0, 5_000, 4_095, 4_096)
    ]
    with pytest.raises(IndexError):
        order[10_000]


@pytest.mark.parametrize(
    ("key", "size", "first"),
    [
        ("7/0/order", 10**6, [924840, 255572, 440655, 263409, 491960, 496185]),
        ("7/0/order", 10**9, [559831499, 598254536, 178369556, 787688547, 470255598, 782703429]),
        ("7/1/order", 10**9, [597268569, 330022371, 146628810, 210107246, 302329560, 531713435]),
        ("7/0/order", 10**12, [587694287747, 8224649507, 100199140471, 774732775977, 743942170463, 852198675533]),
    ],
)
def test_it_is_the_same_for_ever(key: str, size: int, first: list[int]) -> None:
    """Runs that go on after an update must find the samples where they were: a change needs another name."""
    assert NAME == "feistel-1"
    order = Order(key, size)
    assert [order[position] for position in range(6)] == first


def test_what_it_is_made_for_has_an_end() -> None:
    assert 0 <= Order("seed", MOST)[MOST - 1] < MOST
    for size in (0, -1, MOST + 1):
        with pytest.raises(ValueError, match="wanted 1 to"):
            Order("seed", size)


@pytest.mark.parametrize("size", [10_007, 10**6, 10**9, 10**12])
def test_it_looks_like_chance(size: int) -> None:
    """Where the numbers at 2^16 neighbouring positions fall, how far neighbours lie apart, and how an epoch goes with
    the next: each against what chance gives, within five standard deviations."""
    count = min(size, 2**16)
    first, second = (Order(f"9/{epoch}/order", size) for epoch in (0, 1))
    positions = np.arange(count, dtype=np.uint64)
    x, y = first.at(positions) / size, second.at(positions) / size
    deviation = 1 / np.sqrt(count)
    assert abs(np.corrcoef(x[:-1], x[1:])[0, 1]) < 5 * deviation, "a number tells nothing of the next one"
    assert abs(np.corrcoef(x, positions)[0, 1]) < 5 * deviation, "nor its position"
    assert abs(np.corrcoef(x, y)[0, 1]) < 5 * deviation, "nor the epoch before"
    cells = 1024  # pairs of neighbours over 32 x 32 cells: chi squared, with cells - 1 degrees of freedom
    joint = np.bincount((x[:-1] * 32).astype(int) * 32 + (x[1:] * 32).astype(int), minlength=cells)
    chi = float(((joint - (count - 1) / cells) ** 2).sum() / ((count - 1) / cells))
    assert chi < cells - 1 + 5 * np.sqrt(2 * (cells - 1))
    if size > 10 * count:  # drawn without replacement from so many, they must not come too evenly either
        own = np.bincount((x * cells).astype(int), minlength=cells)
        chi = float(((own - count / cells) ** 2).sum() / (count / cells))
        assert abs(chi - (cells - 1)) < 5 * np.sqrt(2 * (cells - 1))


def test_small_sets_come_in_all_their_orders_about_equally_often() -> None:
    """Of 4! = 24 orders of four, over 4 800 keys: chi squared with 23 degrees of freedom stays below its 99.999 %."""
    seen: dict[tuple[int, ...], int] = {}
    for key in range(4_800):
        found = tuple(all_of(Order(str(key), 4)).tolist())
        seen[found] = seen.get(found, 0) + 1
    assert len(seen) == 24
    assert sum((count - 200) ** 2 / 200 for count in seen.values()) < 63
