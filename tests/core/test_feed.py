"""The feed: the same batches however far ahead, each with the position after it."""

from __future__ import annotations

import threading

import pytest
import torch

from qi_core import QiError, Sample, Samples
from qi_core.feed import Feed


class Counting:
    """Gives sample 0, 1, 2, ...; fails at one if told to."""

    def __init__(self, fails_at: int = -1) -> None:
        self.n, self.fails_at = 0, fails_at

    def draw(self, count: int) -> Samples:
        if self.n <= self.fails_at < self.n + count:
            raise QiError("nothing usable is left")
        keys = range(self.n, self.n + count)
        self.n += count
        image = torch.zeros(3, 8, 8, dtype=torch.uint8)
        return Samples(items=tuple(Sample(key=str(key), prompt="", image=image) for key in keys))

    def state_dict(self) -> dict[str, int]:
        return {"n": self.n}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.n = state["n"]

    def report(self) -> dict[str, int]:
        return {}


@pytest.mark.parametrize("ahead", [0, 1, 5])
def test_the_order_and_the_positions_do_not_depend_on_how_far_ahead_it_is(ahead: int) -> None:
    with Feed(Counting(), 3, ahead) as feed:
        ready = [feed.next() for _ in range(4)]
    assert [[sample.key for sample in each.portions[0].batch] for each in ready][3] == ["9", "10", "11"]  # type: ignore[attr-defined]
    assert [each.position for each in ready] == [{"n": 3}, {"n": 6}, {"n": 9}, {"n": 12}]


@pytest.mark.parametrize("ahead", [0, 2])
def test_what_the_source_raises_comes_at_its_turn(ahead: int) -> None:
    with Feed(Counting(fails_at=4), 2, ahead) as feed:
        feed.next()
        feed.next()
        with pytest.raises(QiError, match="nothing usable"):
            feed.next()


def test_leaving_ends_the_thread() -> None:
    before = threading.active_count()
    with Feed(Counting(), 1, 2) as feed:
        feed.next()
    assert threading.active_count() == before
