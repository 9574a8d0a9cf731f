"""Every recipe that comes with qi is sound, and its text round-trips."""

from __future__ import annotations

from pathlib import Path

import pytest

from qi_registry.reader import loads, packaged, read
from qi_registry.recipe import to_toml

RECIPES = sorted(packaged())


def test_the_recipes_that_the_documentation_names_are_there() -> None:
    named = "pretrain pretrain_images pretrain_progressive curriculum finetune sft sft_images weak dpo grpo"
    assert {f"{name}.toml" for name in named.split()} <= set(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_sound_and_its_resolved_text_is_the_same_recipe(name: str) -> None:
    recipe = read(f"recipes/{name}")
    assert loads(to_toml(recipe), where="resolved") == recipe
    assert recipe.name == Path(name).stem


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_opens_with_what_it_is_for(name: str) -> None:
    first = packaged()[name].read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("# ")
    assert len(first) > 20


@pytest.mark.parametrize("name", RECIPES)
def test_a_dropped_caption_is_the_prompt_that_guidance_guides_away_from(name: str) -> None:
    recipe = read(f"recipes/{name}")
    if hasattr(recipe.objective, "dropped"):
        assert recipe.objective.dropped == recipe.guidance.negative
