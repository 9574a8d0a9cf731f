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


def test_the_sequence_is_the_same_for_ever() -> None:
    """Runs that go on after an update must find whose turn it is where it was."""
    first = {(0.7, 0.3): "100000001101010011000100", (1.0, 1.0, 1.0): "021110122202010112221120"}
    for weights, wanted in first.items():
        assert "".join(map(str, Turns(weights, 7).take(24))) == wanted
    turns = Turns([0.7, 0.3], 7)
    found = turns.take(30)
    turns.weigh([Fraction(1, 3), Fraction(2, 3)])
    found += turns.take(90)
    assert "".join(map(str, found[60:100])) == "0001100001100111011001111101100110111111"


def test_other_weights_hold_from_the_next_block_on_and_what_is_owed_is_carried_over() -> None:
    turns = Turns([0.7, 0.3], 5)
    first = turns.take(10)
    turns.weigh([0.2, 0.8])
    assert first + turns.take(54) == Turns([0.7, 0.3], 5).take(64), "a block that has begun stays as it is"
    given, due = Counter(Turns([0.7, 0.3], 5).take(64)), Fraction("44.8")
    for _ in range(40):
        given.update(turns.take(BLOCK))
        due += BLOCK * Fraction("0.2")
        assert abs(given[0] - due) < 1, "never a whole sample off what the weights of all blocks come to"


def test_weights_may_change_with_every_block() -> None:
    """As in a linear transition: over all of it each part has had what the weights of its blocks come to."""
    turns, given, due = Turns([1.0, 0.0, 0.0], 5), Counter[int](), [Fraction(0)] * 3
    for step in range(200):
        weights = [Fraction(200 - step, 200), Fraction(step, 300), Fraction(step, 600)]
        turns.weigh(weights)
        given.update(turns.take(BLOCK))
        due = [own + BLOCK * weight for own, weight in zip(due, weights, strict=True)]
        assert max(abs(given[part] - own) for part, own in enumerate(due)) < 1.5, step
    assert len(str(turns.state_dict()["owed"])) < 60, "its digits don't grow"


def test_a_part_that_is_switched_off_gives_nothing_and_may_come_back() -> None:
    turns = Turns([0.5, 0.3, 0.2], 5)
    turns.take(BLOCK)
    turns.weigh([0.5, 0.0, 0.5])
    assert Counter(turns.take(10 * BLOCK)).keys() == {0, 2}
    turns.weigh([0.0, 1.0, 0.0])
    assert set(turns.take(BLOCK)) == {1}


def test_every_position_can_be_gone_to_while_weights_change() -> None:
    def weights(position: int) -> list[Fraction]:
        return [Fraction(position + 1, 300), Fraction(299 - position, 300)]

    def goes_on(turns: Turns, position: int) -> list[int]:
        found: list[int] = []
        for at in range(position, 260):
            turns.weigh(weights(at))
            found += turns.take(1)
        return found

    turns, wanted = Turns([1.0, 1.0], 5), goes_on(Turns([1.0, 1.0], 5), 0)
    for position in range(250):
        resumed = Turns([1.0, 1.0], 5)
        resumed.load_state_dict(json.loads(json.dumps(turns.state_dict())))
        assert goes_on(resumed, position) == wanted[position:], position
        turns.weigh(weights(position))
        turns.take(1)


def test_other_weights_hold_from_a_resume_on_and_parts_may_be_added() -> None:
    turns = Turns([1.0, 1.0], 5)
    given = Counter(turns.take(70))
    changed = Turns([3.0, 1.0], 5)
    changed.load_state_dict(turns.state_dict())
    given.update(changed.take(BLOCK))
    assert abs(given[0] - (35 + 48)) < 1
    more = Turns([3.0, 1.0, 4.0], 5)
    more.load_state_dict(json.loads(json.dumps(changed.state_dict())))
    given.update(more.take(BLOCK))
    assert abs(given[0] - (35 + 48 + 24)) < 1
    assert given[2] == 32
