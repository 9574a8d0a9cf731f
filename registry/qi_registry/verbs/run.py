"""qi run"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qi_registry.recipe import Recipe


class Run:
    """Train what a recipe says, or go on with a run that was stopped."""

    def configure(self, parser: ArgumentParser) -> None:
        parser.add_argument("recipe", help="a recipe (a path, or one shipped with qi), or the folder of a run")
        parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a key; repeatable")
        parser.add_argument("--folder", metavar="DIR", help="where the run lives (default: runs/<name of the recipe>)")
        parser.add_argument("--fresh", action="store_true", help="start again; the run that is there is set aside")

    def run(self, args: Namespace) -> int:
        from qi_core.errors import QiError
        from qi_core.files import locked
        from qi_registry import runs
        from qi_registry.reader import read

        sets = tuple(args.set)
        if runs.is_run(args.recipe):
            if args.folder and Path(args.folder) != Path(args.recipe):
                raise QiError(f"{args.recipe} is a run: it goes on where it is; leave --folder out")
            folder, recipe = Path(args.recipe), runs.read_run(Path(args.recipe), sets)
        else:
            recipe = read(args.recipe, sets)
            folder = Path(args.folder) if args.folder else recipe.path
        aside = None
        if args.fresh and folder.exists():
            with locked(folder, "a run"):
                aside = runs.set_aside(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder, "a run"):  # before anything in it is judged or rewritten
            notes = list(runs.enter(recipe, folder))
            if aside:
                notes.append(f"the run that was here is now {aside}")
            return train(recipe, folder, notes)


def train(recipe: Recipe, folder: Path, notes: list[str]) -> int:
    """Assemble and train. 0 when done or stopped by SIGTERM, 130 when stopped by SIGINT."""
    from qi_core import loop
    from qi_registry.assemble import assemble

    run = assemble(recipe, folder)
    run.notes[:0] = notes
    if run.step >= run.train.steps:
        print(
            f"{folder}: all {run.train.steps} steps are done; to train longer --set train.steps=N, "
            "to start again --fresh"
        )
        return 0
    ended = loop.train(run)
    return 130 if ended.reason == "SIGINT" else 0
