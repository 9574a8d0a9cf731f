"""Weights say how often a sample comes: exactly, in any epoch at once, and none of it by heart."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attrs import frozen

from qi_core import QiError
from qi_core.pixels import Unusable
from qi_core.repeats import UNIT, Repeats, Weights
from qi_core.shuffling import Deck, Fingerprint

WEIGHTS = np.array([0, 250_000, 600_000, 1_000_000, 1_333_000, 2_500_000, 4_000_000], np.int64)


def repeats(each: int = 7, seed: int = 0, path: str = "weights.jsonl", weights: Any = WEIGHTS) -> Repeats:
    return Repeats(np.repeat(weights, each), seed, path)


@frozen
class Entry:
    key: str


def deck(own: Repeats | None, changed: Any = "refuse", count: int = 49) -> Deck[Entry]:
    entries = [Entry(f"{n}") for n in range(count)]
    fingerprint = Fingerprint.of([(entry.key, b"") for entry in entries])
    return Deck(
        where="source.path = 'a'", entries=entries, fingerprint=fingerprint, seed=0, changed=changed, repeats=own
    )


def test_after_every_epoch_each_sample_and_each_weight_has_come_as_often_as_it_weighs() -> None:
    own = repeats()
    had = np.zeros(len(own.weights), np.int64)
    for epoch in range(60):
        had += own.epoch(epoch).counts
        wanted = (epoch + 1) * own.weights / UNIT
        assert (np.abs(had - wanted) < 1).all(), "each sample: its weight, rounded up or down"
        of_one_weight = np.abs(had.reshape(7, 7).sum(1) - wanted.reshape(7, 7).sum(1))
        assert (of_one_weight <= 1).all(), "all of one weight together, too"
    assert not had[:7].any()
    assert (own.epoch(10**6).before[21:28] == 10**6).all(), "any epoch is reached at once"
    assert len({len(own.epoch(epoch)) for epoch in range(60)}) < 7, "epochs are of about one length"


def test_who_comes_early_hangs_on_the_seed() -> None:
    first, again, other = (repeats(seed=seed).epoch(0).counts for seed in (0, 0, 1))
    assert (first == again).all()
    assert (first != other).any()


def test_no_two_turns_of_a_sample_are_alike_and_one_that_weighs_1_has_the_epoch_for_a_turn() -> None:
    own = repeats()
    tickets = [own.epoch(epoch)[slot] for epoch in range(4) for slot in range(len(own.epoch(epoch)))]
    assert len(set(tickets)) == len(tickets)
    turns = [turn for turn, number in tickets if number == 44]
    assert turns == list(range(16)), "4 times in each of 4 epochs"
    assert [turn for turn, number in tickets if number == 24] == [0, 1, 2, 3]


def test_a_deck_deals_them_goes_on_anywhere_and_without_weights_deals_as_ever() -> None:
    live = deck(repeats())
    states, tickets = [], []
    for _ in range(300):
        states.append(live.state_dict())
        tickets += live.plan(1)
    epoch = len(repeats().epoch(0))
    times = Counter(number for _, number in tickets[:epoch])
    assert [times[number] for number in range(49)] == repeats().epoch(0).counts.tolist()
    for position in (1, epoch - 1, epoch, 250):
        resumed = deck(repeats())
        resumed.load_state_dict(states[position])
        assert resumed.plan(40) == tickets[position : position + 40]
    even = deck(Repeats(np.full(49, UNIT), 5, "w"))
    assert even.plan(200) == deck(None).plan(200)
    assert "weights" not in deck(None).state_dict()


def test_only_who_comes_at_all_stands_in_for_a_broken_one() -> None:
    live = deck(repeats())
    assert {live.other((0, 9), attempt)[1] for attempt in range(1, 42)} == set(range(7, 49)) - {9}

    def torn(entry: Entry, turn: int) -> str:
        raise Unusable("torn", entry.key)

    for number in range(7, 49):
        with pytest.raises(Unusable, match="torn"):
            live.make((0, number), torn)
    with pytest.raises(QiError, match=r"no usable sample is left \(42 torn\)"):
        live.other((0, 9), 1)


def test_other_weights_begin_with_the_next_epoch_and_a_file_that_changed_is_told() -> None:
    live = deck(repeats())
    live.plan(30)
    edited = repeats(weights=WEIGHTS[::-1])
    with pytest.raises(
        QiError, match=r"^source.weights_file = 'weights.jsonl': weights changed since the checkpoint; put"
    ):
        deck(edited).load_state_dict(live.state_dict())
    for after in (deck(edited, "next-epoch"), deck(repeats(path="b", weights=WEIGHTS[::-1])), deck(None)):
        after.load_state_dict(live.state_dict())
        assert (after.state_dict()["epoch"], after.state_dict()["index"]) == (1, 0)
    before = deck(None)
    before.plan(30)
    weighed = deck(repeats())
    weighed.load_state_dict(before.state_dict())
    assert weighed.state_dict()["epoch"] == 1


def test_a_deck_in_which_most_epochs_are_empty_goes_on() -> None:
    live = deck(Repeats(np.array([0, 1000]), 0, "w"), count=2)
    assert [ticket[1] for ticket in live.plan(3)] == [1, 1, 1]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"key": "a", "weight": 1}\n\n{"key": "a", "weight": 2}\n', ":3: the key of line 1 again; wanted one weight"),
        ('{"key": "a", "weight": -1}\n', ":1: 'weight' is -1; wanted a JSON object with a 'key' and a 'weight' of 0, "),
        ('{"key": "a", "weight": 1e9}\n', ":1: 'weight' is 1e+09; wanted"),
        ('{"key": "a", "weight": NaN}\n', ":1: JSON is malformed"),
        ('{"key": "a", "weight": 1}\n{"key": "b"}\n', ":2: Object missing required field `weight`; wanted"),
        ("a.png\t2\n", ":1: JSON is malformed"),
        ("", ": no weights in it; wanted what qi data resample writes"),
    ],
)
def test_what_is_no_list_of_weights_is_told_with_its_line(text: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.jsonl"
    path.write_text(text)
    with pytest.raises(QiError) as error:
        Weights.read(str(path))
    assert str(error.value).startswith(f"{path}{told}")
    assert "\n" not in str(error.value)


def test_names_of_files_that_are_no_text_are_keys_too(tmp_path: Path) -> None:
    path, key = tmp_path / "weights.jsonl", "caf\udce9.png"
    path.write_text("\ufeff" + json.dumps({"key": "a.png", "weight": 3}) + "\n" + json.dumps({"key": key, "weight": 2}))
    own = Weights.read(str(path))
    assert own.of(["a.png", key])[0].tolist() == [3 * UNIT, 2 * UNIT]
    assert own.identity is own.identity, "asked for with the position of every step"
    path.write_text(json.dumps({"key": key}))
    with pytest.raises(QiError, match=":1: Object missing required field `weight`"):
        Weights.read(str(path))


def test_weights_that_are_of_other_samples_are_told(tmp_path: Path) -> None:
    path = tmp_path / "weights.jsonl"
    path.write_text('{"key": "photos/a.png", "weight": 2}\n{"key": "photos/b.png", "weight": 0}\n')
    own = Weights.read(str(path))
    assert own.of(["photos/b.png", "new.png", "photos/a.png"])[0].tolist() == [0, UNIT, 2 * UNIT]
    with pytest.raises(
        QiError, match=r"none of its 2 keys \(such as 'photos/a.png'\) is one of 'p' \(such as 'a.png'\)"
    ):
        own.of_all(["a.png", "b.png"], "'p'")
    with pytest.raises(QiError, match="all of 'p' weigh 0"):
        own.of_all(["photos/b.png"], "'p'")
    with pytest.raises(QiError, match="cannot be read"):
        Weights.read(str(tmp_path / "none"))
