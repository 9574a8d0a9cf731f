"""Live sources whose samples are made from numbers."""

from __future__ import annotations

from typing import Any

from qi_core import Sample, Samples, Ticket
from qi_core.drawing import Passed, drawn


class Numbered:
    """Samples 0, 1, 2 ... A subclass says what they are, and raises Unusable for those that are broken."""

    gives: type = Samples

    def __init__(self, seed: int = 0) -> None:
        self.seed, self.n, self.passed = seed, 0, Passed()

    def sample(self, n: int) -> Sample:
        raise NotImplementedError

    def plan(self, count: int) -> list[Ticket]:
        self.n += count
        return [(n,) for n in range(self.n - count, self.n)]

    def cost(self, ticket: Ticket) -> int:
        return 1

    def called(self, ticket: Ticket) -> str:
        return f"{ticket[0]}"

    def make(self, ticket: Ticket) -> Sample:
        return self.sample(ticket[0])

    def other(self, ticket: Ticket, attempt: int) -> Ticket:
        """A number of its own, which the order never comes to: 1007 is the first that stands in for 7."""
        return (ticket[0] + 1000 * attempt,)

    def draw(self, count: int) -> Any:
        return drawn(self, count, self.passed)

    def state_dict(self) -> dict[str, Any]:
        return {"n": self.n}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.n = state["n"]

    def report(self) -> dict[str, int]:
        return dict(self.passed.counts)
