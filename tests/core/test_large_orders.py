"""A billion samples: planning a batch of them takes a moment, and no memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from time import process_time

from attrs import frozen

from qi_core.shuffling import Deck, Fingerprint


@frozen
class Number:
    """An entry that is not stored anywhere."""

    number: int

    @property
    def key(self) -> str:
        return str(self.number)


class Billion(Sequence[Number]):
    def __len__(self) -> int:
        return 10**9

    def __getitem__(self, number: int) -> Number:  # type: ignore[override]
        return Number(number)


def test_a_batch_of_512_from_a_billion_is_planned_in_milliseconds_and_kilobytes() -> None:
    deck: Deck[Number] = Deck(
        where="here", entries=Billion(), fingerprint=Fingerprint(keys="", contents=""), seed=0, changed="refuse"
    )
    tracemalloc.start()
    first = deck.plan(512)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 2**20
    times = []
    for _ in range(20):
        began = process_time()
        deck.plan(512)
        times.append(process_time() - began)
    assert sum(times) / len(times) < 0.005
    assert len(set(first)) == 512
    state = deck.state_dict()
    assert (state["index"], state["order"]) == (21 * 512, "feistel-1")
    expected = deck.plan(512)
    deck.load_state_dict(state)
    assert deck.plan(512) == expected
