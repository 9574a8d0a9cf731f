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
        place = Path(args.recipe)
        if not args.folder and runs.is_kept_recipe(place):
            place = place.parent
        if runs.is_run(place):
            if args.folder and Path(args.folder) != place:
                raise QiError(f"{place} is a run: it goes on where it is; leave --folder out")
            folder, recipe = place, runs.read_run(place, sets)
        else:
            recipe = read(args.recipe, sets)
            folder = Path(args.folder) if args.folder else recipe.path
        notes: list[str] = []
        if args.fresh and runs.is_run(folder):
            folder = folder.resolve()
            with locked(folder, "a run"):
                notes = [f"the run that was here is now {runs.set_aside(folder)}"]
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder, "a run"):  # before anything in it is judged or rewritten
            return train(recipe, folder, sets, notes)


def train(recipe: Recipe, folder: Path, sets: tuple[str, ...], notes: list[str]) -> int:
    """Assemble and train. 0 when done or stopped by SIGTERM, 130 when stopped by SIGINT."""
    from qi_core import loop
    from qi_core.tracker import Change
    from qi_registry import runs
    from qi_registry.assemble import assemble
    from qi_registry.recipe import to_toml

    strategy = recipe.parallel.build()
    if runs.is_run(folder):
        before = runs.read_run(folder)
        run = assemble(recipe, folder, strategy)
        differing = runs.different_lines(to_toml(before), run.recipe)
        notes += [f"changed since the run began: {line}" for line in differing]
        # Where the run was killed after its last checkpoint, changes lie ahead: what is asked for now outlives them.
        ahead = [change.step for change in run.ledger.read() if change.step > run.step]
        for setting in runs.changes_at_resume(before, recipe, sets, folder):
            for step in (run.step, *ahead[-1:]):
                run.ledger.append(Change(step=step, setting=setting))
        if differing:
            runs.keep(recipe, folder)  # now that it has proved to fit
    else:
        runs.refuse_foreign(folder)
        runs.keep(recipe, folder)
        run = assemble(recipe, folder, strategy)
    run.notes[:0] = notes
    if run.step >= run.train.steps:
        print(
            f"{folder}: all {run.train.steps} steps are done; to train longer --set train.steps=N, "
            "to start again --fresh"
        )
        return 0
    ended = loop.train(run)
    return 130 if ended.reason == "SIGINT" else 0
