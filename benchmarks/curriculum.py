"""A curriculum against none, at equal CPU-seconds: plain words and then coloured ones, or coloured ones from the start.

    python benchmarks/curriculum.py [--seeds 2] [--seconds 180] [--first 40] [--every 20] [--json FILE]

Model, optimizer, batch and words are those of recipes/pretrain.toml: the source of its first stage, then that of its
second; the flat side sees the second alone. Each side trains for the same CPU-seconds of this process (drawing and
reading back the test pictures does not count) at a constant learning rate after the recipe's warm-up. What is measured
is the exact match of coloured words that were never trained on: all characters and both colours read back right.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attrs import asdict, evolve, frozen
from common import Clock, table, write

from qi_core.loop import feeding, step
from qi_core.place import Place
from qi_core.run import Evaluating, Run
from qi_core.source import SourceComponent
from qi_registry.assemble import assemble
from qi_registry.reader import read
from qi_registry.recipe import Recipe

SIDES = ("curriculum", "flat")


@frozen(kw_only=True)
class Point:
    """Where one training stood."""

    side: str
    seed: int
    cpu: float
    """Seconds of training until then."""
    steps: int
    exact: float
    """Part of the held-out strings that were drawn right, characters and colours."""
    right: float
    """Characters alone."""
    loss: float
    """Mean since the point before."""


def stages(recipe: Recipe) -> tuple[SourceComponent[Any], SourceComponent[Any], str]:
    """The sources of the recipe's first two stages, and the second's name."""
    found: tuple[Any, ...] = getattr(recipe.source, "stages", ())
    if len(found) < 2:
        sys.exit(f'{recipe.name}: [source] is not "stages" with at least two; give --recipe one that has a curriculum')
    return found[0].source, found[1].source, found[1].name


def evaluation(run: Run, recipe: Recipe, stage: str) -> Evaluating:
    """The recipe's evaluation whose title is the stage's name, or its only one."""
    titles = [getattr(component, "title", "") for component in recipe.evaluation]
    if stage in titles:
        return run.evaluations[titles.index(stage)]
    if len(titles) == 1:
        return run.evaluations[0]
    sys.exit(f"no evaluation is called {stage!r} as the second stage is; there are: {', '.join(titles) or 'none'}")


def train(recipe: Recipe, side: str, seed: int, budget: float, first: float, every: float) -> list[Point]:
    """One training of ``budget`` CPU-seconds, the first of them on the first stage."""
    easy, hard, stage = stages(recipe)
    with tempfile.TemporaryDirectory() as folder:
        run = assemble(recipe, Path(folder))
        measured = evaluation(run, recipe, stage).evaluation
        place = Place(device=run.strategy.device, dtype=run.strategy.dtype, seed=seed, folder=Path(folder))
        scale = run.encoders.autoencoder.scale
        parts = [(easy, first), (hard, budget - first)] if side == "curriculum" else [(hard, budget)]
        points: list[Point] = []
        spent = 0.0
        for component, seconds in parts:
            run.source, run.spec = component.build(place, scale), None
            until = spent + seconds
            with feeding(run) as feed:
                while spent < until:
                    clock, now = Clock(), min(every, until - spent)
                    losses = [step(run, feed).loss]
                    while clock.read().cpu < now:
                        losses.append(step(run, feed).loss)
                    spent += clock.read().cpu
                    with run.painter() as painter:
                        found = measured.evaluate(painter, run.step).scalars
                    points.append(
                        Point(
                            side=side,
                            seed=seed,
                            cpu=spent,
                            steps=run.step,
                            exact=found["exact"],
                            right=found["right"],
                            loss=statistics.fmean(losses),
                        )
                    )
                    told = points[-1]
                    print(
                        f"{side}, seed {seed}: {told.cpu:.0f} s, {told.steps} steps, exact {told.exact:.0%}", flush=True
                    )
    return points


def prepared(path: str, seed: int, count: int, threads: int) -> Recipe:
    """The recipe for a training that is cut by time: its schedule must not depend on a last step."""
    sets = [f"train.seed={seed}", f"parallel.threads={threads}", "train.save_every=0", "preview.every=0", "tracker=[]"]
    recipe = read(path, sets)
    return evolve(
        recipe,
        optimizer=changed(recipe.optimizer, schedule="constant", decay=0, final=0.0),
        evaluation=tuple(changed(each, count=count, shown=0) for each in recipe.evaluation),
    )


def changed(component: Any, **fields: Any) -> Any:
    """The component with other values in those of the fields that it has."""
    return evolve(component, **{name: value for name, value in fields.items() if hasattr(component, name)})


def near(points: Sequence[Point], side: str, seed: int, cpu: float) -> Point | None:
    """The last point of a training at or before a time (half a second of grace)."""
    there = [p for p in points if p.side == side and p.seed == seed and p.cpu <= cpu + 0.5]
    return there[-1] if there else None


def show(points: Sequence[Point], seeds: Sequence[int], budget: float, every: float) -> None:
    times = [every * (i + 1) for i in range(round(budget / every))]

    def cell(side: str, seed: int, cpu: float) -> str:
        point = near(points, side, seed, cpu)
        return "" if point is None else f"{point.exact:.0%}"

    table(
        "Exact match of held-out coloured words by CPU-seconds of training",
        ("seconds", *(f"{side} {seed}" for side in SIDES for seed in seeds)),
        ((f"{cpu:.0f}", *(cell(side, seed, cpu) for side in SIDES for seed in seeds)) for cpu in times),
        caption="columns: side and seed",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="recipes/pretrain.toml", help="one whose source has stages")
    parser.add_argument("--seeds", type=int, default=2, help="how many (2)")
    parser.add_argument("--seconds", type=float, default=180, help="CPU-seconds of each training (180)")
    parser.add_argument("--first", type=float, default=40, help="of these on the first stage (40)")
    parser.add_argument("--every", type=float, default=20, help="CPU-seconds between two measurements (20)")
    parser.add_argument("--count", type=int, default=128, help="strings of a measurement (128)")
    parser.add_argument("--threads", type=int, default=1, help="of one operation (1)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    args = parser.parse_args()
    if not 0 < args.first < args.seconds:
        parser.error(f"--first {args.first:g}: wanted more than 0 and less than --seconds ({args.seconds:g})")
    points: list[Point] = []
    for seed in range(args.seeds):
        recipe = prepared(args.recipe, seed, args.count, args.threads)
        for side in SIDES:
            points += train(recipe, side, seed, args.seconds, args.first, args.every)
    show(points, range(args.seeds), args.seconds, args.every)
    write(
        args.json,
        {
            "recipe": args.recipe,
            "seconds": args.seconds,
            "first": args.first,
            "threads": args.threads,
            "strings": args.count,
            "points": [asdict(point) for point in points],
        },
    )


if __name__ == "__main__":
    main()
