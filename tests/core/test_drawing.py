"""From tickets to samples: who stands in, what is told of those that could not be used, and when it is enough."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from attrs import evolve

from qi_core import QiError, Sample, Samples
from qi_core.drawing import Passed, Rejected, all_made, drawn, made
from qi_core.pixels import Unusable
from qi_core.portions import Avoided, Order
from qi_core.producing import Maker
from support.numbered import Numbered

IMAGE = torch.zeros(3, 8, 8, dtype=torch.uint8)


class Lossy(Numbered):
    """Some numbers cannot be used; the first that stands in for 7 is 1007."""

    def __init__(self, errors: Mapping[int, Unusable]) -> None:
        super().__init__()
        self.errors = errors

    def sample(self, n: int) -> Sample:
        if n in self.errors:
            raise self.errors[n].again()
        return Sample(key=f"{n}", prompt="", image=IMAGE)


TORN, PALE = Unusable("cannot be decoded", "cut short"), Rejected("too pale", "0.01, at least 0.1 wanted")


def test_each_that_stands_in_and_cannot_be_used_either_is_told_in_turn() -> None:
    found = made(Lossy({7: TORN, 1007: PALE, 2007: TORN}), (7,))
    assert found.item.key == "3007"
    told = [(lost.key, lost.reason, lost.detail, lost.rejected) for lost in found.lost]
    assert told == [
        ("7", "cannot be decoded", "cut short", False),
        ("1007", "too pale", "0.01, at least 0.1 wanted", True),
        ("2007", "cannot be decoded", "cut short", False),
    ]
    assert made(Lossy({7: TORN}), (8,)).lost == ()


def test_threads_change_neither_samples_nor_their_order() -> None:
    source = Lossy(dict.fromkeys(range(0, 50, 3), TORN))
    tickets = source.plan(50)
    with ThreadPoolExecutor(8) as pool:
        keys = [found.item.key for found in all_made(source, tickets, pool)]
    assert keys == [found.item.key for found in all_made(source, tickets)]
    assert keys == [f"{n if n % 3 else n + 1000}" for n in range(50)]


def test_what_is_passed_over_is_counted_and_told_once() -> None:
    told: list[tuple[str, str, str]] = []
    passed = Passed(lambda key, reason, detail="": told.append((key, reason, detail)))
    source = Lossy({1: TORN, 4: TORN, 5: PALE})
    for _ in range(3):  # epochs of six
        drawn(source, 6, passed)
        source.load_state_dict({"n": 0})
    assert passed.counts == {"cannot be decoded": 2, "too pale": 1}
    assert told == [("1", *TORN.args), ("4", *TORN.args), ("5", *PALE.args)]


def test_what_an_order_avoids_is_passed_over_as_if_it_could_not_be_used() -> None:
    """Those that would stand in for another too."""
    avoid = tuple(Avoided(key=key, reason=TORN.reason, detail=TORN.detail) for key in ("7", "2007"))
    order = Order(spec="s", step=0, number=0, tickets=((7,), (8,)), slots=(0, 1), avoid=avoid)
    portion = Maker(source=Lossy({1007: PALE}), seed=0).make(order)
    same = Maker(source=Lossy({7: TORN, 1007: PALE, 2007: TORN}), seed=0).make(evolve(order, avoid=()))
    assert isinstance(portion.batch, Samples)
    assert [item.key for item in portion.batch] == ["3007", "8"]
    assert portion.lost == same.lost
    tried: list[tuple[int, str]] = []
    Maker(source=Lossy({1007: PALE}), seed=0).one_by_one(order, (1, 0), lambda place, key: tried.append((place, key)))
    assert tried == [(1, "8"), (0, "1007"), (0, "3007")]


@pytest.mark.parametrize(("error", "hint"), [(TORN, "check that the data is still there"), (PALE, "ask less of them")])
def test_a_thousand_in_a_row_are_enough(error: Unusable, hint: str) -> None:
    source = Lossy(dict.fromkeys(range(3, 1_000_000, 1000), error))
    with pytest.raises(QiError) as told:
        made(source, (3,))
    assert str(told.value) == (
        f"1000 samples in a row could not be used, the last, 999003: {error.reason} ({error.detail}); {hint}, or give "
        "other data"
    )
    assert made(Lossy({n * 1000 + 3: error for n in range(999)}), (3,)).item.key == "999003"
