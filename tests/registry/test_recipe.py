from __future__ import annotations

import tomllib
from pathlib import Path

import attrs
import pytest

from qi_core.errors import QiError
from qi_registry.reader import loads, packaged, read
from qi_registry.recipe import Recipe, to_toml
from qi_registry.registry import Registry

EVERYTHING = r"""
name = "my run"
init = "runs/other"
autoencoder = {name = "patches", size = 4}
conditioner = "letters"
denoiser = {name = "net", depth = 2}
adapter = {name = "extra", rank = 4}
objective = {name = "flow", dropout = 1e-5}
tracker = []
sampler = {name = "heun", shift = 1e3}
evaluation = ["score", {name = "score", every = 3}]
optimizer = {lr = 1e-4}
curriculum = {name = "stages", stages = [{steps = 5, mixture = {0 = 1, 1 = 0.5}}, {lr = 0.5}]}
[preview]
prompts = ['the word "HI"', "字\\n\n\t", ""]
[source]
name = "mixture"
parts = [{source = {name = "words", text = "a b/c.txt", colours = []}}, {source = "words", weight = 2}]
"""


def test_reading_what_was_written_gives_an_equal_recipe(registry: Registry) -> None:
    recipe = loads(EVERYTHING, where="r.toml", registry=registry)
    text = to_toml(recipe, registry)
    again = loads(text, where="elsewhere.toml", registry=registry)
    assert again == recipe
    assert to_toml(again, registry) == text


def test_the_resolved_recipe_holds_every_default(registry: Registry) -> None:
    table = tomllib.loads(to_toml(loads(EVERYTHING, where="r.toml", registry=registry), registry))
    assert set(table) == {field.name for field in attrs.fields(Recipe)}
    assert table["train"]["steps"] == 1000
    assert table["sampler"] == {"name": "heun", "steps": 50, "shift": 1000.0, "order": 2}
    assert table["tracker"] == []


def test_a_recipe_may_go_without_an_adapter(registry: Registry) -> None:
    without = EVERYTHING.replace('adapter = {name = "extra", rank = 4}\n', "")
    recipe = loads(without, where="r.toml", registry=registry)
    assert recipe.adapter is None
    assert "adapter" not in tomllib.loads(to_toml(recipe, registry))
    assert loads(to_toml(recipe, registry), where="r.toml", registry=registry) == recipe


def test_a_component_that_no_plugin_offers_cannot_be_written(registry: Registry) -> None:
    @attrs.frozen
    class Mine:
        pass

    recipe = loads(EVERYTHING, where="r.toml", registry=registry)
    with pytest.raises(QiError, match="Mine: no plugin offers this class"):
        to_toml(attrs.evolve(recipe, sampler=Mine()), registry)


@pytest.mark.parametrize("path", packaged().values(), ids=lambda path: path.name)
def test_every_recipe_of_qi_comes_back_equal(path: Path) -> None:
    recipe = read(path)
    assert loads(to_toml(recipe), where="recipe.toml") == recipe
