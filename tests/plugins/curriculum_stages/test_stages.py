"""The curriculum ``stages``: what holds at which step, exactly."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest

from qi_core.curriculum import Curriculum, Outset, due
from qi_core.testing import check_component
from qi_plugins.curriculum_stages.component import Stage, Stages

OUTSET = Outset(
    mixture={"real": 3.0, "synthetic": 1.0},
    shift=3.0,
    value=lambda key: {"data.filters.clarity.least": 40.0, "data.filters.size.least": 256}.get(key),
)


def unfolded(*stages: Stage, outset: Outset = OUTSET) -> Curriculum:
    return Stages(stages=stages).build(outset)


def test_what_a_stage_does_not_say_stays_as_it_was() -> None:
    plan = unfolded(
        Stage(name="first", steps=10),
        Stage(name="second", steps=5, mixture={"real": 2, "synthetic": 2}, lr=0.5, tokens=4096, shift=5.0),
        Stage(set=("source.side=640",)),
    )
    first, second, third = (plan.at(step) for step in (0, 10, 1000))
    assert (first.stage, first.begun, first.mixture, first.lr, first.tokens) == ("first", 0, {}, 1.0, 0)
    assert first.shift == 3.0, "of the recipe; and its own mixture, which is not told"
    assert (second.stage, second.begun, second.lr, second.tokens, second.shift) == ("second", 10, 0.5, 4096, 5.0)
    assert second.mixture == {"real": Fraction(1, 2), "synthetic": Fraction(1, 2)}
    assert (third.stage, third.mixture, third.lr) == ("2", second.mixture, 0.5)
    assert (second.settings, third.settings) == ((), ("source.side=640",))
    assert [(span.stage, span.begin, span.end) for span in plan.spans()] == [
        ("first", 0, 10),
        ("second", 10, 15),
        ("2", 15, None),
    ]


def test_a_transition_is_linear_and_exact() -> None:
    plan = unfolded(
        Stage(steps=10),
        Stage(steps=100, transition=30, mixture={"synthetic": 1}, lr=0.1, shift="none"),
    )
    assert plan.at(9).mixture == {}
    assert plan.at(10).mixture == {"real": Fraction(3, 4), "synthetic": Fraction(1, 4)}, "from the recipe's weights"
    assert plan.at(20).mixture == {"real": Fraction(1, 2), "synthetic": Fraction(1, 2)}
    assert plan.at(39).mixture == {"real": Fraction(1, 40), "synthetic": Fraction(39, 40)}
    assert plan.at(40).mixture == {"synthetic": 1}
    assert [plan.at(step).lr for step in (10, 25, 40)] == [1.0, 0.55, 0.1]
    assert [plan.at(step).shift for step in (10, 25, 40)] == [3.0, 2.0, 1.0], "none is a factor of 1"


def test_a_stage_cut_short_leaves_from_where_it_was() -> None:
    plan = unfolded(
        Stage(steps=10, transition=20, lr=3.0),
        Stage(steps=10, transition=10, lr=0.0),
    )
    assert [plan.at(step).lr for step in (9, 10, 15, 20)] == [1.9, 2.0, 1.0, 0.0]


def test_thresholds_move_in_a_few_steps_and_everything_else_at_once() -> None:
    lines = ("data.filters.clarity.least = 60", "data.filters.size.least=512", "source.side=640")
    plan = unfolded(Stage(steps=10), Stage(transition=80, set=lines))
    assert plan.at(9).settings == ()
    assert plan.at(10).settings == ("data.filters.clarity.least = 40.0", "data.filters.size.least = 256", lines[2])
    assert plan.at(50).settings == ("data.filters.clarity.least = 50.0", "data.filters.size.least = 384", lines[2])
    assert plan.at(90).settings == lines
    moves = [step for step in range(200) if due(plan, step)]
    assert moves == [*range(10, 91, 10)], "each is a new version of the data"
    assert set(moves) <= set(plan.moves())
    assert due(plan, 20) == ("data.filters.clarity.least = 42.5", "data.filters.size.least = 288")
    words = unfolded(Stage(transition=8, set=("data.filters.clarity.mode=fine", "data.filters.new.least=3")))
    assert words.at(0).settings == ("data.filters.clarity.mode=fine", "data.filters.new.least=3"), "no number before"


def test_a_line_that_is_said_again_holds_in_place_of_the_first() -> None:
    plan = unfolded(
        Stage(steps=5, set=("source.side=256", "data.filters.clarity.least=30")),
        Stage(steps=5, set=("source.side=640",)),
        Stage(transition=2, set=("data.filters.clarity.least=60",)),
    )
    assert plan.at(5).settings == ("data.filters.clarity.least=30", "source.side=640")
    assert plan.at(11).settings == ("source.side=640", "data.filters.clarity.least = 45")
    assert due(plan, 5) == ("source.side=640",)


def test_the_released_shift_has_no_number_to_move_from() -> None:
    plan = unfolded(Stage(steps=5), Stage(steps=10, transition=10, shift="qwen-image"), Stage(transition=4, shift=2.0))
    assert [plan.at(step).shift for step in (4, 5, 14, 15)] == [3.0, "qwen-image", "qwen-image", 2.0]


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: Stages(stages=()), "no stages"),
        (lambda: Stages(stages=(Stage(), Stage())), r"stages\[0\].steps is 0, .* only the last"),
        (lambda: Stages(stages=(Stage(name="1", steps=3), Stage())), "two stages are called '1'"),
        (lambda: Stage(mixture={"real": 0.0}), "sums to nothing"),
        (lambda: Stage(mixture={"real": -1.0}), "a weight of 0 or more"),
        (lambda: Stage(shift=0.0), "must be > 0"),
        (lambda: Stage(lr=-1.0), "'lr' must be >= 0"),
        (lambda: Stage(set=("source.side",)), "wanted a line of the recipe"),
    ],
)
def test_settings_that_make_no_sense(make: Any, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        make()


def test_the_line_that_ends_a_stage() -> None:
    assert Stages(stages=(Stage(),)).cut_short("plain words", 70) == 'curriculum.stages."plain words".steps = 70'


def test_the_component_is_read_without_torch() -> None:
    check_component(Stages)
