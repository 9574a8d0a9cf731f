"""A worker that some samples kill and some hang. It makes nothing: of a portion it says what was avoided. It loads no
torch, so that it starts at once.

A ticket is (n,). The definition is JSON: ``kills``, ``hangs``, ``hoards`` and ``unusable`` are lists of numbers; more
than ``together`` kill; each takes ``seconds`` and leaves a line in the file ``marks``.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from qi_core import QiError
from qi_core.plane.child import Make, Try, work
from qi_core.portions import Order

PROGRAM = Path(__file__)
LATER = 100
"""Who stands in for n is n + LATER, for that one n + 2 LATER, and so on."""


def called(n: int) -> str:
    """Its key: as of a file whose name is a number, and a byte that is no text."""
    return f"{n}\udcff"


def definition(**given: object) -> bytes:
    return json.dumps(given).encode()


class Deadly:
    """Does to this process what its definition says."""

    def __init__(self, text: bytes) -> None:
        self.given = json.loads(text)

    def walk(self, order: Order, place: int, tell: Callable[[int, str], None]) -> None:
        """What making the sample at this place does."""
        n, avoid = order.tickets[place][0], {each.key for each in order.avoid}
        while called(n) in avoid or n in self.given.get("unusable", ()):
            if called(n) not in avoid:
                tell(place, called(n))
            n += LATER
        tell(place, called(n))
        if "marks" in self.given:
            with open(self.given["marks"], "a", encoding="ascii") as marks:
                marks.write(f"{os.getpid()}\n")
        if n in self.given.get("kills", ()):
            os.kill(os.getpid(), signal.SIGKILL)
        if n in self.given.get("hangs", ()):
            time.sleep(3600)
        if n in self.given.get("hoards", ()):
            hoard = b"x" * (1 << 28)
            time.sleep(3600 + len(hoard))
        time.sleep(self.given.get("seconds", 0))

    def make(self, order: Order) -> None:
        for place in range(len(order.tickets)):
            self.walk(order, place, lambda _, __: None)
        if len(order.tickets) > self.given.get("together", len(order.tickets)):
            os.kill(os.getpid(), signal.SIGKILL)
        raise QiError("; ".join(f"{each.key} {each.reason}" for each in order.avoid) or "none was avoided")

    def singly(self, order: Order, places: Sequence[int], tell: Callable[[int, str], None]) -> None:
        for place in places:
            self.walk(order, place, tell)


def build(text: bytes) -> Make:
    return Deadly(text).make  # type: ignore[return-value]


def trial(text: bytes) -> Try:
    return Deadly(text).singly


if __name__ == "__main__":
    work(build, trial=trial)
