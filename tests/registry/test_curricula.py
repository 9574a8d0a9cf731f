"""A recipe with a curriculum: checked before it begins; what is in effect at each step of a run that was changed."""

from __future__ import annotations

from typing import Any

import pytest

from qi_core.errors import QiError, RecipeError
from qi_core.tracker import Change
from qi_registry.changes import apply_setting
from qi_registry.curricula import Unfolding, at_step
from qi_registry.reader import loads
from qi_registry.recipe import Recipe
from qi_registry.registry import Registry

TEXT = """\
autoencoder = "patches"
conditioner = "letters"
denoiser = "net"
objective = "flow"

[source]
name = "mixture"
parts = [{name = "real", source = "words"}, {name = "drawn", source = "words"}]

[curriculum]
name = "stages"

[[curriculum.stages]]
name = "plain"
steps = 10

[[curriculum.stages]]
name = "text"
steps = 10
mixture = { real = 0.5, drawn = 0.5 }
set = ["source.parts.real.source.letters='XYZ'"]

[[curriculum.stages]]
name = "more"
transition = 4
mixture = { real = 0.2, drawn = 0.2, extra = 0.6 }
set = ["source.parts.extra={source='words', weight=1}", "optimizer.lr=1e-4"]
"""


def read(registry: Registry, *sets: str, text: str = TEXT) -> Recipe:
    return loads(text, where="r.toml", sets=sets, registry=registry)


def letters(recipe: Recipe) -> dict[str, str]:
    source: Any = recipe.source
    return {part.name: part.source.letters for part in source.parts}


def in_effect(registry: Registry, step: int, *changes: tuple[int, str]) -> Recipe:
    """As a run finds itself that was changed so and goes on at a step."""
    here = Unfolding.of(read(registry), registry)
    for at, setting in changes:
        if at < step:
            here = here.to(at).changed(setting)
    return here.to(step).recipe


def test_lines_of_stages_take_effect_with_them(registry: Registry) -> None:
    assert letters(in_effect(registry, 9)) == {"real": "ABC", "drawn": "ABC"}
    assert letters(in_effect(registry, 10)) == {"real": "XYZ", "drawn": "ABC"}
    late: Any = in_effect(registry, 500)
    assert letters(late) == {"real": "XYZ", "drawn": "ABC", "extra": "ABC"}
    assert late.optimizer.lr == 1e-4
    assert late.curriculum == read(registry).curriculum


def test_what_a_person_says_holds_until_a_stage_says_the_same_key_again(registry: Registry) -> None:
    line = "source.parts.real.source.letters='Q'"
    assert letters(in_effect(registry, 9, (5, line)))["real"] == "Q"
    assert letters(in_effect(registry, 10, (5, line)))["real"] == "XYZ"
    assert letters(in_effect(registry, 99, (12, line)))["real"] == "Q"
    assert letters(in_effect(registry, 12, (12, line)))["real"] == "XYZ", "it comes up again at its own step"


def test_the_next_stage_may_begin_at_once(registry: Registry) -> None:
    here = Unfolding.of(read(registry), registry).to(4)
    line = here.resolved("curriculum = next", 4)
    assert line == 'curriculum.stages."plain".steps = 4'
    here = here.changed(line)
    assert here.curriculum is not None
    assert here.curriculum.at(4).stage == "text"
    assert letters(here.recipe)["real"] == "XYZ", "its lines are in effect with it"
    assert here.curriculum.at(3).stage == "plain", "what was before is as it was"
    assert letters(in_effect(registry, 13, (4, line))) == {"real": "XYZ", "drawn": "ABC"}
    assert "extra" in letters(in_effect(registry, 14, (4, line))), "what follows comes earlier too"
    assert here.resolved("optimizer.lr=1", 4) == "optimizer.lr=1"
    with pytest.raises(QiError, match="'text' begins at this very step"):
        here.resolved("curriculum='next'", 4)
    with pytest.raises(QiError, match="'more' is the last stage"):
        here.resolved("curriculum=next", 50)
    with pytest.raises(QiError, match="the recipe has none"):
        Unfolding.of(read(registry, text=TEXT.split("[curriculum]")[0]), registry).resolved("curriculum=next", 5)


def test_the_plan_itself_may_be_changed(registry: Registry) -> None:
    here = Unfolding.of(read(registry), registry).to(12).changed("curriculum.stages.text.mixture.drawn=1.5")
    assert here.curriculum is not None
    assert {name: float(share) for name, share in here.curriculum.at(12).mixture.items()} == {
        "real": 0.25,
        "drawn": 0.75,
    }


def test_a_stage_may_be_given_a_part_that_came_by_hand(registry: Registry) -> None:
    here = Unfolding.of(read(registry), registry).to(5)
    here = here.changed("source.parts.new={ weight = 1.0, source = { name = 'words', letters = 'N' } }").to(7)
    here = here.changed("curriculum.stages.text.mixture.new=0.5")
    assert here.curriculum is not None
    assert here.curriculum.at(12).mixture["new"] > 0
    assert here.curriculum.at(7).mixture == here.curriculum.at(0).mixture, "what was before is as it was"


def test_weights_by_hand_stand_in_place_of_those_of_the_stage(registry: Registry) -> None:
    pace = Unfolding.of(read(registry), registry).to(10).changed("data.mixture.drawn=1.5").pace(8)
    assert pace.weights(9) == {}, "the source's own"
    assert {name: float(weight) for name, weight in pace.weights(10).items()} == {"real": 0.5, "drawn": 1.5}
    assert pace.figures(10) == {"stage": 1.0, "share/real": 0.25, "share/drawn": 0.75}


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        (
            "real = 0.5",
            "reel = 0.5",
            "curriculum.stages[1]: mixture.reel: the source has no part of that name (known: ",
        ),
        (".letters='XYZ'", ".lettres='XYZ'", "curriculum.stages[1]: source.parts.real.source.lettres='XYZ': source"),
        ("optimizer.lr", "train.batch", "curriculum.stages[2]: train.batch=1e-4: can't be changed while a run goes on"),
        (
            "optimizer.lr",
            "data.portion",
            "curriculum.stages[2]: data.portion=1e-4: can't be changed while a run goes on",
        ),
        ("steps = 10\nmix", "steps = 0\nmix", "curriculum.stages: stages[1].steps is 0, which means to the end; only"),
        ("{ real = 0.5, drawn = 0.5 }", "{ real = 0 }", "curriculum.stages[1].mixture: 'mixture' sums to nothing"),
        ("extra = 0.6", "extra = 'x'", "curriculum.stages[2].mixture.extra: found 'x'; wanted a number"),
        ("weight=1}", "weight='x'}", "curriculum.stages[2]: source.parts.extra={source='words', weight='x'}: source"),
    ],
)
def test_what_it_cannot_follow_is_told_before_a_run(registry: Registry, old: str, new: str, what: str) -> None:
    assert old in TEXT
    with pytest.raises(RecipeError) as error:
        read(registry, text=TEXT.replace(old, new))
    (told,) = error.value.mistakes
    place, _, rest = told.partition(" ")
    assert place.startswith("r.toml:")
    assert rest.startswith(what), told


def test_weights_by_hand_are_for_parts_that_there_are(registry: Registry) -> None:
    with pytest.raises(RecipeError, match=r"data.mixture.x: the source has no part of that name .known: real, drawn"):
        apply_setting(read(registry), "data.mixture.x=1", registry)
    words = TEXT.split("[source]")[0] + 'source = "words"\n'
    with pytest.raises(RecipeError, match="or none that can be weighed; wanted a source 'mixture'"):
        read(registry, "data.mixture.x=1", text=words)


def test_a_run_goes_on_where_it_stood() -> None:
    """With the plugins that are installed, by the changes as a run keeps them."""
    recipe = loads(
        """
autoencoder = "patchify"
conditioner = "characters"
denoiser = "mmdit"
objective = "flow-matching"
source = "rendered-text"
curriculum = { name = "stages", stages = [{ steps = 5 }, { set = ["source.height=32"], lr = 0.5 }] }
""",
        where="r.toml",
    )
    sides = [at_step(recipe, [Change(step=3, setting="source.height=64")], step).recipe.source for step in (3, 4, 5)]
    assert [side.height for side in sides] == [16, 64, 32]  # type: ignore[attr-defined]
