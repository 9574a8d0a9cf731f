"""qi run"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from contextlib import ExitStack

    from qi_core.parallel import Strategy
    from qi_core.run import Run as LiveRun
    from qi_registry.asked import Asked
    from qi_registry.recipe import Recipe


class Run:
    """Train what a recipe says, or go on with a run that was stopped.

    With --nproc it starts the ranks of this machine itself; under torchrun, Slurm's srun or Ray it is one of those
    that they start.
    """

    def configure(self, parser: ArgumentParser) -> None:
        parser.add_argument("recipe", help="a recipe (a path, or one shipped with qi), or the folder of a run")
        parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a key; repeatable")
        parser.add_argument("--folder", metavar="DIR", help="where the run lives (default: runs/<name of the recipe>)")
        parser.add_argument("--fresh", action="store_true", help="start again; the run that is there is set aside")
        ranks = parser.add_argument_group("several processes (parallel = fsdp or megatron)")
        ranks.add_argument("--nproc", type=int, metavar="N", help="start N ranks on this machine")
        ranks.add_argument(
            "--restarts",
            type=int,
            default=0,
            metavar="N",
            help="go on from the last checkpoint when a rank dies, N times",
        )
        ranks.add_argument(
            "--nnodes", type=int, default=1, metavar="N", help="machines; each is given the same command"
        )
        ranks.add_argument(
            "--node-rank", type=int, default=0, metavar="I", help="0 where --address is, 1 ... elsewhere"
        )
        ranks.add_argument("--address", default="", metavar="HOST:PORT", help="where the machines meet")

    def run(self, args: Namespace) -> int:
        from qi_registry import asked as command
        from qi_registry import launch

        asked = command.read(args)
        if wanted := launch.wanted(args, asked.recipe, asked.folder):
            return launch.launch(wanted, asked)
        return train(asked)


def train(asked: Asked) -> int:
    """As one rank of them all. 0 when done or stopped by SIGTERM, 130 when stopped by SIGINT."""
    from contextlib import ExitStack

    from qi_core import team
    from qi_core.errors import LostError
    from qi_registry import launch, ranks

    launch.follow_launcher()
    launch.allow_connections()
    strategy = asked.recipe.parallel.build()
    several = strategy.team.ranks > 1
    try:
        with ExitStack() as held:
            ranks.refuse_different(strategy.team, asked)
            code = _train(asked, strategy, held)
    except RuntimeError as error:
        if several and (why := team.lost(error)):
            raise LostError(
                f"another rank is gone or stands still ({why}); {ranks.last_good(asked)}; go on with the same command"
            ) from error
        raise
    if several:
        team.leave()
    return code


def _train(asked: Asked, strategy: Strategy, held: ExitStack) -> int:
    from attrs import evolve

    from qi_core import loop
    from qi_core.team import by_first
    from qi_registry import ranks, runs
    from qi_registry.assemble import assemble

    team, folder = strategy.team, asked.folder
    begun, restarted, notes = by_first(team, lambda: _take(asked, held))
    ranks.refuse_unshared(team, folder)
    ranks.log_apart(team, folder)
    if restarted:  # what was asked for is in the folder, and perhaps what was asked for since
        asked = evolve(asked, recipe=runs.read_run(folder), sets=())
    before = runs.read_run(folder) if begun else None
    if before is None:
        by_first(team, lambda: runs.keep(asked.recipe, folder))
    run = assemble(asked.recipe, folder, strategy)
    if before is not None and run.main:
        notes += _resumed(run, asked, before)
    if run.main:
        ranks.mark(folder)
        run.notes[:0] = notes
    if run.step >= run.train.steps:
        if run.main:
            print(
                f"{folder}: all {run.train.steps} steps are done; to train longer --set train.steps=N, "
                "to start again --fresh"
            )
        return 0
    ended = loop.train(run)
    return 130 if ended.reason == "SIGINT" else 0


def _take(asked: Asked, held: ExitStack) -> tuple[bool, bool, list[str]]:
    """Rank 0 holds the folder while it lives. Whether a run is there, whether this is its restart, what to tell."""
    from qi_core.files import locked
    from qi_registry import ranks, runs

    folder, notes = asked.folder, list[str]()
    restarted = ranks.restarted(folder)
    if asked.fresh and runs.is_run(folder) and not restarted:
        with locked(folder, "a run"):
            notes = [f"the run that was here is now {runs.set_aside(folder)}"]
    folder.mkdir(parents=True, exist_ok=True)
    held.enter_context(locked(folder, "a run"))  # before anything in it is judged or rewritten
    if not restarted:
        ranks.unmark(folder)
    if not runs.is_run(folder):
        runs.refuse_foreign(folder)
    return runs.is_run(folder), restarted, notes


def _resumed(run: LiveRun, asked: Asked, before: Recipe) -> list[str]:
    """Keep what has changed since the run began, now that it has proved to fit; what to tell of it."""
    from qi_core.tracker import Change
    from qi_registry import runs
    from qi_registry.recipe import to_toml

    differing = runs.different_lines(to_toml(before), run.recipe)
    # Where the run was killed after its last checkpoint, changes lie ahead: what is asked for now outlives them.
    ahead = [change.step for change in run.ledger.read() if change.step > run.step]
    for setting in runs.changes_at_resume(before, asked.recipe, asked.sets, asked.folder):
        for step in (run.step, *ahead[-1:]):
            run.ledger.append(Change(step=step, setting=setting))
    if differing:
        runs.keep(asked.recipe, asked.folder)
    return [f"changed since the run began: {line}" for line in differing]
