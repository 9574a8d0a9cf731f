"""Every piece of a recipe that the documentation shows is sound, section by section."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from qi_registry.kinds import SECTIONS, Kind
from qi_registry.recipe import SETTINGS
from qi_registry.registry import installed
from qi_registry.structure import Structurer

DOCS = Path(__file__).parents[2] / "docs"
BLOCKS = [
    pytest.param(match[1], id=f"{path.name}:{path.read_text(encoding='utf-8')[: match.start()].count(chr(10)) + 1}")
    for path in sorted(DOCS.glob("*.md"))
    for match in re.finditer(r"^```toml\n(.*?)^```", path.read_text(encoding="utf-8"), re.M | re.S)
]


@pytest.mark.parametrize("text", BLOCKS)
def test_a_piece_of_a_recipe_is_sound(text: str) -> None:
    make = Structurer(installed())
    for key, value in tomllib.loads(text).items():
        wanted: Any = SECTIONS.get(key) or SETTINGS.get(key)
        many = isinstance(wanted, Kind) and wanted.many
        for item in value if many else [value]:
            if wanted is None or (isinstance(wanted, Kind) and isinstance(item, dict) and "name" not in item):
                continue  # a key of the head, a project's file, or keys laid over a recipe's own component
            _, mistakes = make.section(item, wanted, (key,))
            assert not mistakes, mistakes
