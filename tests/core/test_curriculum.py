"""Which samples a step's batch is made of, by a curriculum that a test has written down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction

import pytest
import torch

from qi_core import Sample
from qi_core.curriculum import Pace, Span, State, Weight, due
from qi_core.engine import Inline, Spec
from qi_core.orders import Cut, Ordered
from qi_core.producing import Maker
from qi_core.source import Ticket
from support.numbered import Numbered

PLAN = {
    0: State(stage="a", begun=0),
    3: State(stage="b", begun=3, mixture={"x": Fraction(1, 4), "y": Fraction(3, 4)}, settings=("k=1",)),
    6: State(stage="c", begun=6, mixture={"y": Fraction(1)}, tokens=40, settings=("k=1", "l=2")),
}


class Written:
    """What holds from each step on."""

    def at(self, step: int) -> State:
        return PLAN[max(begin for begin in PLAN if begin <= step)]

    def spans(self) -> Sequence[Span]:
        ends = [*list(PLAN)[1:], None]
        return [
            Span(stage=state.stage, begin=begin, end=end, transition=0)
            for (begin, state), end in zip(PLAN.items(), ends, strict=True)
        ]

    def moves(self) -> Sequence[int]:
        return list(PLAN)


class Weighable(Numbered):
    """Its n-th sample has 8 x 8 pixels for every token of n % 3 + 10."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[Mapping[str, Weight]] = []

    def weigh(self, weights: Mapping[str, Weight]) -> None:
        self.told.append(weights)

    def cost(self, ticket: Ticket) -> int:
        return 64 * (ticket[0] % 3 + 10)

    def sample(self, n: int) -> Sample:
        return Sample(key=f"{n}", prompt="", image=torch.zeros(3, 8, 8, dtype=torch.uint8))


def test_a_batch_has_so_many_samples_or_the_first_that_have_enough_tokens() -> None:
    source, pace = Weighable(), Pace(samples=5, patch=8, curriculum=Written())
    assert [len(pace.tickets(source, step)) for step in range(8)] == [5, 5, 5, 5, 5, 5, 4, 4]
    assert sum(source.cost(ticket) // 64 for ticket in pace.tickets(source, 9)) >= 40
    assert len(Pace(samples=5, patch=8).tickets(source, 9)) == 5


def test_the_source_is_told_the_weights_of_every_step() -> None:
    source = Weighable()
    pace = Pace(samples=1, patch=8, curriculum=Written(), over={"x": 0.5}, own={"x": 1.0, "y": 1.0})
    for step in (0, 3, 6):
        pace.tickets(source, step)
    assert source.told == [{"x": 0.5, "y": Fraction(3, 4)}, {"y": Fraction(1), "x": 0.5}], "its own until a stage says"
    assert pace.figures(0) == {"stage": 0, "share/x": 0.5, "share/y": 0.5}
    assert pace.figures(3) == {"stage": 1, "share/x": pytest.approx(0.4), "share/y": pytest.approx(0.6)}
    assert Pace(samples=1, patch=8, own={"x": 1.0}).figures(3) == {}


def test_lines_are_due_when_they_begin_to_hold() -> None:
    plan = Written()
    assert [due(plan, step) for step in (0, 3, 4, 6)] == [(), ("k=1",), (), ("l=2",)]
    pace = Pace(samples=1, patch=8, curriculum=plan)
    assert pace.begins(6) == "stage 'c' begins; l=2"
    assert pace.begins(5) == ""


def test_nothing_is_made_ahead_by_settings_that_may_be_others_then() -> None:
    source, engine = Weighable(), Inline(1)
    engine.begin(Spec(digest="a", recipe="", maker=Maker(source=source, seed=0)))
    pace = Pace(samples=5, patch=8, curriculum=Written())
    with Ordered(source, engine, spec="a", step=0, pace=pace, ahead=10, cut=Cut(portion=8)) as feed:
        for _ in range(3):
            feed.next()
            assert source.state_dict() == {"n": 15}, "not beyond the third step"
        feed.clear(3)
        feed.next()
        assert source.state_dict() == {"n": 30}
    engine.close()
