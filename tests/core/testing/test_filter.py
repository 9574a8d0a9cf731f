"""The contract of filters finds those who break it."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from attrs import field, frozen

from qi_core import Filter, Place, Sample
from qi_core.bar import Bar
from qi_core.testing import check_filter


@frozen(kw_only=True)
class Mean:
    live: Filter = field(
        default=Bar(measuring=lambda sample: float(sample.image.float().mean()), least=50, below="too dark")
    )

    def build(self, place: Place) -> Filter:
        return self.live


def test_one_that_keeps_it() -> None:
    check_filter(Mean())


def test_those_that_break_it() -> None:
    turns = itertools.count()

    class Strict(Bar):
        def refuses(self, value: float) -> str:
            return "" if value > 0 else "too low"

    def greedy(sample: Sample) -> float:
        sample.image.zero_()
        return 1.0

    for live, told in (
        (Bar(measuring=lambda sample: float(next(turns))), "other values in another order"),
        (Bar(measuring=lambda sample: float(torch.rand(()) > 2)), "draws from the global generator"),
        (Bar(measuring=lambda sample: math.nan), "says nothing of any"),
        (Bar(measuring=lambda sample: sample.image.float().mean()), "wanted a float"),
        (Bar(measuring=greedy), "changes the pictures"),
        (Strict(measuring=lambda sample: 1.0), "it is to be kept"),
    ):
        with pytest.raises(AssertionError, match=told):
            check_filter(Mean(live=live))
