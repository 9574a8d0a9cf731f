"""Who stands in for a broken entry, and what a position in a set is worth when the set changes."""

from __future__ import annotations

import pytest
from attrs import frozen

from qi_core import QiError
from qi_core.pixels import Unusable
from qi_core.shuffling import Deck, Fingerprint, another


@frozen
class Entry:
    key: str


def deck(count: int = 10, seed: int = 0) -> Deck[Entry]:
    entries = [Entry(f"{n}") for n in range(count)]
    fingerprint = Fingerprint.of([(entry.key, b"") for entry in entries])
    return Deck(where="source", entries=entries, fingerprint=fingerprint, seed=seed, changed="refuse")


def whole(entry: Entry, epoch: int) -> str:
    return f"{entry.key} in epoch {epoch}"


def torn(entry: Entry, epoch: int) -> str:
    raise Unusable("torn", entry.key)


@pytest.mark.parametrize("count", [1, 2, 3, 8, 12, 97, 100])
def test_all_others_are_asked_to_stand_in_before_any_is_asked_again(count: int) -> None:
    for number in (0, count // 2, count - 1):
        asked = [another(f"{number}", number, attempt, count) for attempt in range(1, count)]
        assert {*asked, number} == set(range(count))
        assert len(asked) == count - 1
        assert another(f"{number}", number, count, count) == number


def test_who_stands_in_differs_by_seed_epoch_and_entry() -> None:
    """A neighbour of the broken one would be learned twice as well as the rest."""
    steps = {another(f"{name}", 0, 1, 1_000_003) for name in range(100)}
    assert len(steps) == 100
    assert deck(997, seed=0).other((0, 5), 1) != deck(997, seed=1).other((0, 5), 1)
    assert deck(997).other((0, 5), 1) != deck(997).other((1, 5), 1)
    assert deck(997).other((4, 5), 1)[0] == 4, "of the same epoch"


def test_when_all_are_known_to_be_broken_there_is_one_line() -> None:
    live = deck(3)
    for number in range(3):
        assert live.other((0, number), 1)
        with pytest.raises(Unusable, match="torn"):
            live.make((0, number), torn)
    with pytest.raises(QiError, match=r"^source: no usable sample is left \(3 torn\); check the data$"):
        live.other((0, 0), 1)


def test_what_proved_broken_is_not_made_again() -> None:
    live = deck()
    with pytest.raises(Unusable):
        live.make((0, 4), torn)
    with pytest.raises(Unusable, match="torn"):
        live.make((7, 4), whole)
    assert live.make((7, 5), whole) == "5 in epoch 7"
