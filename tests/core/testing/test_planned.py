"""Wrong sources that plan are told what they break."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from attrs import frozen

from qi_core import Pairs, Place, Sample, Samples, Ticket
from qi_core.drawing import made
from qi_core.pixels import Unusable
from qi_core.testing import check_source
from support.numbered import Numbered


class Right(Numbered):
    """Keeps its contract; what follows breaks it in one place each."""

    def sample(self, n: int) -> Sample:
        if n % 5 == 3 and n < 1000:
            raise Unusable("cannot be decoded")
        image = torch.full((3, 8, 8), n % 256, dtype=torch.uint8)
        return Sample(key=f"{n}", prompt=f"number {n} of {self.seed}", image=image)


@frozen(kw_only=True)
class Source:
    gives: ClassVar[type] = Samples

    kind: type[Right] = Right

    def build(self, place: Place, multiple: int) -> Right:
        return self.kind(place.seed)


class GivesOthers(Right):
    gives: type = Pairs

    def draw(self, count: int) -> Samples:
        return Samples(items=tuple(made(self, ticket).item for ticket in self.plan(count)))


class Short(Right):
    def plan(self, count: int) -> list[Ticket]:
        return super().plan(count)[:100]


class Lists(Right):
    def plan(self, count: int) -> list[Ticket]:
        return [list(ticket) for ticket in super().plan(count)]  # type: ignore[misc]


class Floats(Right):
    def plan(self, count: int) -> list[Ticket]:
        return [(float(n),) for (n,) in super().plan(count)]  # type: ignore[misc]

    def sample(self, n: int) -> Sample:
        return super().sample(int(n))


class Looks(Right):
    """For what it will make."""

    def plan(self, count: int) -> list[Ticket]:
        Path(__file__).read_bytes()
        return super().plan(count)


class Slow(Right):
    def plan(self, count: int) -> list[Ticket]:
        for _ in range(count):
            sum(range(10_000))
        return super().plan(count)


class KnowsWhatItPlanned(Right):
    def make(self, ticket: Ticket) -> Sample:
        made = super().make(ticket)
        return Sample(key=made.key, prompt=f"{ticket[0] < self.n}", image=made.image)


class Miscalls(Right):
    def called(self, ticket: Ticket) -> str:
        return f"sample {ticket[0]}"


class Free(Right):
    def cost(self, ticket: Ticket) -> int:
        return 0


class Avoids(Right):
    """Gives another stand-in for one that it has seen to be broken."""

    def make(self, ticket: Ticket) -> Sample:
        self.seen = [*getattr(self, "seen", []), ticket]
        return super().make(ticket)

    def other(self, ticket: Ticket, attempt: int) -> Ticket:
        return (1000 + 5 * (ticket in getattr(self, "seen", [])),)


@pytest.mark.parametrize(
    ("kind", "broken"),
    [
        (GivesOthers, "its settings say"),
        (Short, r"plan\(1000\) gave 100 tickets"),
        (Lists, r"gave the ticket \[0\]; wanted a tuple"),
        (Floats, r"gave the ticket \(0.0,\); wanted a tuple of Python's whole numbers"),
        (Looks, r"plan\(\) opens files, connections or processes: open .*test_planned.py"),
        (Slow, r"plan\(1000\) took .* s of a core"),
        (
            KnowsWhatItPlanned,
            r"what another source makes of the ticket of sample 0, \(0,\), is not what draw\(1\) gives",
        ),
        (Miscalls, r"called\(\(0,\)\) is 'sample 0', the key of what is made of it '0'"),
        (Free, r"cost\(\(0,\)\) is 0; wanted a whole number above 0"),
        (Avoids, r"other\(\(0,\), 1\) depends on more than the ticket and the attempt"),
    ],
)
def test_a_wrong_source_is_told(kind: type[Right], broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qi_core.testing.planned.SECONDS", 0.1)
    with pytest.raises(AssertionError, match=broken):
        check_source(Source(kind=kind))


def test_a_right_source_passes() -> None:
    check_source(Source())


def test_one_that_only_draws_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rollouts do, and others' plugins may."""

    @frozen(kw_only=True)
    class Old(Source):
        def build(self, place: Place, multiple: int) -> Any:
            return OnlyDraws(place.seed)

    class OnlyDraws:
        def __init__(self, seed: int) -> None:
            live = Right(seed)
            self.draw, self.state_dict = live.draw, live.state_dict
            self.load_state_dict, self.report = live.load_state_dict, live.report

    monkeypatch.setattr("qi_core.testing.source.check_planned", lambda *_: pytest.fail("asked"))
    check_source(Old())
