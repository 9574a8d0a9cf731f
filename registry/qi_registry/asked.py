"""What a command line asks of a run."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from attrs import frozen

from qi_core.errors import QiError
from qi_registry import reader, runs
from qi_registry.recipe import Recipe


@frozen(kw_only=True)
class Asked:
    """What a command line comes to."""

    recipe: Recipe
    folder: Path
    sets: tuple[str, ...] = ()
    fresh: bool = False


def read(args: Namespace) -> Asked:
    """Raises QiError where the recipe can't be used."""
    sets = tuple(args.set)
    place = Path(args.recipe)
    if not args.folder and runs.is_kept_recipe(place):
        place = place.parent
    if runs.is_run(place):
        if args.folder and Path(args.folder) != place:
            raise QiError(f"{place} is a run: it goes on where it is; leave --folder out")
        recipe, folder = runs.read_run(place, sets), place
    else:
        recipe = reader.read(args.recipe, sets)
        folder = Path(args.folder) if args.folder else recipe.path
    if args.fresh and runs.is_run(folder):
        folder = folder.resolve()  # now: what is set aside may be the folder that this process stands in
    return Asked(recipe=recipe, folder=folder, sets=sets, fresh=args.fresh)
