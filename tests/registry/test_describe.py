from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import qi_registry
from qi_registry import plugins
from qi_registry.describe import fields, first_line, schema
from qi_registry.kinds import KINDS
from qi_registry.reader import packaged
from qi_registry.registry import Registry

COMMITTED = Path(qi_registry.__file__).with_name("recipe.schema.json")


def test_fields_are_told_with_type_range_default_and_the_text_under_them(registry: Registry) -> None:
    heun = registry.find(KINDS["sampler"], "heun").component
    assert first_line(heun) == "Two velocities a step."
    assert [(field.name, field.wanted, field.otherwise, field.doc) for field in fields(heun)] == [
        ("steps", "a whole number, > 0", "50", "Steps from noise to data; each calls the denoiser once."),
        ("shift", "one of 'none', 'qwen-image' or a number", "'none'", ""),
        ("order", "a whole number", "2", "Always two."),
    ]
    words = {field.name: field for field in fields(registry.find(KINDS["source"], "words").component)}
    assert (words["lengths"].wanted, words["lengths"].otherwise) == (
        "a list of 2: a whole number, a whole number",
        "[2, 4]",
    )
    assert (words["text"].wanted, words["text"].otherwise) == ("a path", "(none)")
    parts = fields(registry.find(KINDS["source"], "mixture").component)[0]
    assert (parts.wanted, parts.otherwise) == ("a list, each a table (Part)", "(must be given)")


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ('sampler = "heun"\n[train]\nsteps = 3', True),
        ('[sampler]\nname = "heun"\norder = 3\nshift = "none"', True),
        ("[sampler]\nsteps = 3", True),
        ('extends = "x.toml"\nevaluation = ["score", {name = "score", every = 3}]', True),
        ('source = {name = "mixture", parts = [{source = "words", weight = 1}]}', True),
        ('sampler = "hein"', False),
        ('[sampler]\nname = "euler"\norder = 3', False),
        ("[sampler]\nsteps = 0", False),
        ("[train]\nstps = 3", False),
        ("[train]\nsteps = 3.5", False),
        ("[source]\nname = 'words'\nlengths = [1]", False),
        ('source = {name = "mixture", parts = [{source = "wrds"}]}', False),
        ("tracker = 'console'", False),
    ],
)
def test_the_schema_knows_names_keys_types_and_ranges(registry: Registry, text: str, good: bool) -> None:
    made = schema(registry)
    jsonschema.Draft202012Validator.check_schema(made)
    assert jsonschema.Draft202012Validator(made).is_valid(tomllib.loads(text)) is good


def first_party() -> dict[str, Any]:
    return schema(Registry(plugins.load(only="qi")))


def test_the_committed_schema_is_fresh() -> None:
    text = json.dumps(first_party(), indent=1, ensure_ascii=False) + "\n"
    assert COMMITTED.read_text(encoding="utf-8") == text, f"run: qi schema --only qi -o {COMMITTED}"


@pytest.mark.parametrize("path", packaged().values(), ids=lambda path: path.name)
def test_the_schema_takes_every_recipe_of_qi(path: Path) -> None:
    jsonschema.Draft202012Validator(first_party()).validate(tomllib.loads(path.read_text(encoding="utf-8")))


def test_every_key_of_every_component_of_qi_is_documented() -> None:
    registry = Registry(plugins.load(only="qi"))
    assert registry.plugins.broken() == []
    assert registry.problems() == []
    bare = [
        f"{kind.name} {name}: {field.name}"
        for kind in KINDS.values()
        for name in registry.names(kind)
        for field in fields(registry.find(kind, name).component)
        if not field.doc
    ]
    assert bare == []
