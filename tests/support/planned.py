"""A source that plans, of samples that a test has made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from attrs import define, field, frozen

from qi_core import QiError, Sample, Samples, Ticket
from qi_core.drawing import Passed, drawn
from qi_core.pixels import Unusable


@define(eq=False)
class Deal:
    """They come one after the other, again and again. ``broken``: reasons by key."""

    samples: Sequence[Sample]
    broken: Mapping[str, str] = field(factory=dict)
    gives: type = Samples
    made: list[str] = field(factory=list)
    n: int = 0
    passed: Passed = field(factory=Passed)

    def plan(self, count: int) -> list[Ticket]:
        self.n += count
        return [(n,) for n in range(self.n - count, self.n)]

    def cost(self, ticket: Ticket) -> int:
        return int(self._of(ticket).image[0].numel())

    def called(self, ticket: Ticket) -> str:
        return self._of(ticket).key

    def make(self, ticket: Ticket) -> Sample:
        sample = self._of(ticket)
        self.made.append(sample.key)
        if sample.key in self.broken:
            raise Unusable(self.broken[sample.key])
        return sample

    def other(self, ticket: Ticket, attempt: int) -> Ticket:
        if attempt > len(self.samples):
            raise QiError("no usable sample is left")
        return (ticket[0] + attempt,)

    def draw(self, count: int) -> Samples:
        found: Samples = drawn(self, count, self.passed)
        return found

    def state_dict(self) -> dict[str, Any]:
        return {"n": self.n}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.n = state["n"]

    def report(self) -> dict[str, int]:
        return dict(self.passed.counts)

    def _of(self, ticket: Ticket) -> Sample:
        return self.samples[ticket[0] % len(self.samples)]


@frozen
class Ladder:
    """A source's settings: grey pictures from black to white, captioned by what they are."""

    count: int = 10

    gives = Samples

    def build(self, place: object, multiple: int) -> Deal:
        return Deal(greys(self.count))


def greys(count: int = 10, side: int = 16) -> list[Sample]:
    """Plain pictures, 0 to 1 in equal steps of luma; ``grey-3``."""
    return [
        Sample(
            key=f"grey-{number}",
            prompt=f"grey {number} <b>&",
            image=torch.full((3, side, side), round(255 * number / (count - 1)), dtype=torch.uint8),
            category=("dark", "light")[2 * number >= count],
        )
        for number in range(count)
    ]
