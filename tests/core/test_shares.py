"""Whose turn it is: exact shares, an order from the seed, positions to save."""

from __future__ import annotations

import json
from collections import Counter
from fractions import Fraction

import pytest

from qi_core.shares import BLOCK, Turns, block, whole


def test_shares_that_divide_a_block_are_exact_in_every_one() -> None:
    turns = Turns([Fraction(1, 2), Fraction(1, 4), Fraction(1, 8), Fraction(1, 8)], seed=3)
    for _ in range(5):
        assert Counter(turns.take(BLOCK)) == {0: 32, 1: 16, 2: 8, 3: 8}


def test_any_other_share_is_never_off_by_a_whole_sample_after_a_block() -> None:
    weights = [Fraction(1, 3), Fraction(1, 7), Fraction(1, 300)]
    turns, given = Turns(weights, seed=0), Counter[int]()
    for number in range(1, 40):
        given.update(turns.take(BLOCK))
        for part, weight in enumerate(weights):
            assert abs(given[part] - BLOCK * number * weight / sum(weights)) < 1
    assert given[2] > 0, "a part that is due less than once a block gets its turn"


def test_a_weight_means_the_number_that_was_written() -> None:
    assert whole([0.1, 0.2]) == (1, 2)
    assert whole([Fraction(1, 3), 1.0]) == (1, 3)


def test_of_equals_the_first_comes_first() -> None:
    assert block([1, 1, 1], [0, 0, 0], 6) == [0, 1, 2, 0, 1, 2]


def test_the_order_comes_from_the_seed_and_has_no_rhythm() -> None:
    def order(seed: int) -> list[int]:
        return Turns([1.0, 1.0], seed).take(2 * BLOCK)

    assert order(1) == order(1) != order(2)
    assert order(1)[:BLOCK] != order(1)[BLOCK:]


@pytest.mark.parametrize("weights", [[0.7, 0.3], [Fraction(1, 3), Fraction(2, 3)]])
def test_every_position_can_be_saved_and_gone_to(weights: list[float | Fraction]) -> None:
    turns, wanted = Turns(weights, 5), Turns(weights, 5).take(150)
    for position in range(150):
        resumed = Turns(weights, 5)
        resumed.load_state_dict(json.loads(json.dumps(turns.state_dict())))
        assert resumed.take(150 - position) == wanted[position:]
        turns.take(1)


def test_other_weights_hold_from_a_resume_on() -> None:
    turns = Turns([1.0, 1.0], 5)
    turns.take(70)
    changed = Turns([3.0, 1.0], 5)
    changed.load_state_dict(turns.state_dict())
    assert Counter(changed.take(BLOCK)) == {0: 48, 1: 16}
