"""One line of a recipe changed, while a run goes on or before."""

from __future__ import annotations

from qi_registry.reader import loads
from qi_registry.recipe import Recipe, to_toml
from qi_registry.registry import Registry


def apply_setting(recipe: Recipe, setting: str, registry: Registry | None = None) -> Recipe:
    """The recipe with one line changed (``sampler=heun``), checked as ``--set`` is.

    Raises RecipeError; the mistakes name the line itself.
    """
    text = to_toml(recipe, registry)
    return loads(text, where="the recipe", sets=[setting], sets_as="", registry=registry)
