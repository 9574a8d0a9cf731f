"""Entries of a list by what they are called, and tables whose keys the user chooses."""

from __future__ import annotations

from typing import Any

import pytest

from qi_core.errors import RecipeError
from qi_registry.changes import apply_setting
from qi_registry.describe import fields, schema
from qi_registry.reader import loads
from qi_registry.recipe import Recipe, to_toml
from qi_registry.registry import Registry

TEXT = """\
autoencoder = "patches"
conditioner = "letters"
denoiser = "net"
objective = "flow"

[source]
name = "mixture"
bars = { clarity = 40, "people/portrait" = 0.5 }

[[source.parts]]
name = "real"
source = "words"

[[source.parts]]
source = { name = "words", letters = "XYZ" }

[[evaluation]]
name = "score"
title = "plain words"
every = 3

[[evaluation]]
name = "score"
title = "colours"
"""


def read(registry: Registry, *sets: str, text: str = TEXT) -> Recipe:
    return loads(text, where="r.toml", sets=sets, registry=registry)


def parts(recipe: Recipe) -> list[tuple[Any, ...]]:
    return [(part.name, part.weight, part.source.letters) for part in recipe.source.parts]  # type: ignore[attr-defined]


def test_an_entry_is_called_by_its_name_or_number(registry: Registry) -> None:
    recipe = read(registry, "source.parts.real.weight=0.3", "source.parts.1.source.letters='Q'")
    assert parts(recipe) == [("real", 0.3, "ABC"), ("", 1.0, "Q")]
    recipe = read(registry, "evaluation.'plain words'.every=10", "evaluation.colours.every=7")
    assert [one.every for one in recipe.evaluation] == [10, 7]


def test_a_name_that_nobody_has_yet_is_a_new_entry(registry: Registry) -> None:
    recipe = read(registry, "source.parts.extra={weight=2, source='words'}", "source.parts.extra.source.letters='N'")
    assert parts(recipe) == [("real", 1.0, "ABC"), ("", 1.0, "XYZ"), ("extra", 2.0, "N")]
    recipe = read(registry, "evaluation.more={name='score', every=2}", "tracker.jsonl={}")
    assert [(one.title, one.every) for one in recipe.evaluation][2] == ("more", 2)
    assert len(recipe.tracker) == 3, "the default's entries have names too"
    bare = read(registry, "evaluation.score.every=4", text=TEXT.split("[[evaluation]]")[0])
    assert [(one.title, one.every) for one in bare.evaluation] == [("", 4)]


def test_a_live_change_means_the_same(registry: Registry) -> None:
    recipe = apply_setting(read(registry), "source.parts.extra={source='words', weight=2}", registry)
    recipe = apply_setting(recipe, "source.parts.extra.weight=3", registry)
    assert parts(recipe)[2] == ("extra", 3.0, "ABC")
    with pytest.raises(RecipeError) as error:
        apply_setting(recipe, "source.parts.extra.weight=-3", registry)
    assert error.value.mistakes == ("source.parts.extra.weight=-3: source.parts[2].weight: 'weight' must be > 0: -3.0",)


@pytest.mark.parametrize(
    ("setting", "what"),
    [
        ("source.parts.real.wieght=2", "source.parts[0].wieght: unknown key; did you mean 'weight'?"),
        (
            "source.parts.raal.weight=2",
            "source.parts[2]: none is called 'raal'; did you mean 'real'?; for a new one, give source too",
        ),
        ("source.parts.real=2", "source.parts: found a table; wanted a list, each a table (Part)"),
        ("evaluation.score.every=2", "evaluation.score: 2 entries are called 'score'; call the one meant by its title"),
        ("evaluation.more={name='scor'}", "evaluation[2].name: no evaluation is called 'scor'; did you mean 'score'?"),
        (
            "tracker.log={name='jsonl'}",
            "tracker[3]: jsonl has no title or label, so it is called by its name; write jsonl",
        ),
        ("source.bars.clarity='x'", "source.bars.clarity: found 'x'; wanted a number"),
        ("source.bars=3", "source.bars: found 3; wanted a table, each key a number"),
        ("source.more.a.weight=0", "source.more.a.weight: 'weight' must be > 0: 0"),
        ("source.source.parts.3=1", "source.source: unknown key"),
    ],
)
def test_what_cannot_be_meant_is_one_mistake_at_its_place(registry: Registry, setting: str, what: str) -> None:
    with pytest.raises(RecipeError) as error:
        read(registry, setting)
    (told,) = (line for line in error.value.mistakes if "missing" not in line or "missing" in what)
    assert told.startswith(f"--set {setting}: {what}"), told


def test_a_file_lays_its_entries_on_those_that_it_extends(registry: Registry, tmp_path: Any) -> None:
    (tmp_path / "base.toml").write_text(TEXT)
    text = 'extends = "base.toml"\n[source.parts.real]\nweight = 0.5\n[evaluation.colours]\nevery = "x"\n'
    with pytest.raises(RecipeError) as error:
        loads(text, where="r.toml", beside=tmp_path, registry=registry)
    assert error.value.mistakes == ("r.toml:5: evaluation[1].every: found 'x'; wanted a whole number",)
    recipe = loads(text.replace('"x"', "6"), where="r.toml", beside=tmp_path, registry=registry)
    assert parts(recipe)[0][1] == 0.5
    assert [one.every for one in recipe.evaluation] == [3, 6]


def test_keys_that_the_user_chooses_come_back_and_are_described(registry: Registry) -> None:
    recipe = read(registry, "source.bars.luma=2", "source.more.a.source='words'")
    assert recipe.source.bars == {"clarity": 40.0, "people/portrait": 0.5, "luma": 2.0}  # type: ignore[attr-defined]
    assert loads(to_toml(recipe, registry), where="again", registry=registry) == recipe
    (bars,) = (field for field in fields(type(recipe.source)) if field.name == "bars")
    assert bars.wanted == "a table, each key a number"
    told = schema(registry)["$defs"]["source.mixture"]["properties"]
    assert told["bars"]["additionalProperties"] == {"type": "number"}
    assert told["more"]["additionalProperties"]["properties"]["weight"]["type"] == "number"
