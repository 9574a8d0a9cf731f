"""What ``qi plan`` prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from attrs import evolve, frozen

from qi_core.errors import QiError
from qi_registry.planning import caching
from qi_registry.planning import estimate as rules
from qi_registry.planning.cards import Card
from qi_registry.planning.estimate import Estimate
from qi_registry.planning.jobs import Scene, job, sides
from qi_registry.planning.sweep import Choice, planned, strategies, sweep
from qi_registry.recipe import Recipe
from qi_registry.tables import print_table

MOST_GPUS = 4096


@frozen(kw_only=True)
class Question:
    """What was asked."""

    where: str
    recipe: Recipe
    gpus: tuple[int, ...]
    cards: tuple[Card, ...]
    per_node: int
    pixels: tuple[int, ...]
    text: int
    references: int
    mfu: float | None
    top: int
    samples: int | None = None
    """Different ones in the data, for the size of a cache."""


def answer(asked: Question, *, sweeping: bool) -> int:
    """Print it. 0 if (something of) it fits, else 1."""
    pixels, note = (asked.pixels, "") if asked.pixels else sides(asked.recipe)
    scenes = [Scene(side=side, text=asked.text, references=asked.references) for side in pixels]
    known = strategies()
    if len(asked.gpus) * len(asked.cards) > 1:
        return _best(asked, scenes, known, asked.top if sweeping else 1)
    if sweeping:
        return max(_sweep(asked, scene, known) for scene in scenes)
    return _plan(asked, scenes, known, note)


def _plan(asked: Question, scenes: Sequence[Scene], known: Mapping[str, type[Any]], note: str) -> int:
    """The recipe as it stands, a column for each size of picture."""
    gpus, card, recipe = asked.gpus[0], asked.cards[0], asked.recipe
    found = [planned(recipe, scene, gpus, card, asked.per_node, asked.mfu) for scene in scenes]
    first = found[0]
    print(f"{asked.where} on {_many(gpus, card)}: {_layout(first)}; {_batch(recipe, first)}\n")
    _memory_table(scenes, found)
    print()
    _time_table(recipe, scenes, found)
    notes = [*([note] if note else []), *job(recipe, scenes[-1])[1], *_assumed(asked, found[-1])]
    notes += caching.lines(recipe, scenes, asked.samples)
    print("\n" + "\n".join(f"* {line}" for line in notes))
    worst = min(found, key=lambda one: one.room)
    if worst.fits:
        return 0
    print(f"\nIt does not fit. {_advice(asked, scenes[found.index(worst)], known)}")
    return 1


def _memory_table(scenes: Sequence[Scene], found: Sequence[Estimate]) -> None:
    names = list(dict.fromkeys(item.name for one in found for item in one.items))
    rows: list[list[str]] = []
    for name in names:
        items = [next((item for item in one.items if item.name == name), None) for one in found]
        note = next(item.note for item in items if item)
        rows.append([name, *(_gb(item.bytes) if item else "" for item in items), note])
    rows.append(["at most at one time", *(_gb(one.peak) for one in found), "not all of it is there at once"])
    rows.append([f"the card has, less {rules.MARGIN:.0%}", *(_gb(one.capacity) for one in found), ""])
    rows.append(["", *("fits" if one.fits else f"{_gb(-one.room)} too much" for one in found), ""])
    if any(one.host for one in found):
        rows.append(["CPU's memory, each rank", *(_gb(one.host) for one in found), "offload"])
    print_table(["GB a GPU", *(f"{scene.side} px" for scene in scenes), ""], rows)


def _time_table(recipe: Recipe, scenes: Sequence[Scene], found: Sequence[Estimate]) -> None:
    names = list(dict.fromkeys(name for one in found for name, _ in one.parts))
    rows = [[name, *(_seconds(dict(one.parts).get(name, 0.0)) for one in found)] for name in names]
    rows += [
        ["a step", *(_seconds(one.seconds) for one in found)],
        ["MFU", *(f"{one.mfu:.0%}" for one in found)],
        ["samples a second", *(_rate(one.samples_per_second) for one in found)],
        [f"{recipe.train.steps} steps", *(_long(one.seconds * recipe.train.steps) for one in found)],
    ]
    print_table(["time", *(f"{scene.side} px" for scene in scenes)], rows)


def _sweep(asked: Question, scene: Scene, known: Mapping[str, type[Any]]) -> int:
    gpus, card, recipe = asked.gpus[0], asked.cards[0], asked.recipe
    choices = sweep(recipe, scene, gpus, card, asked.per_node, known, asked.mfu)
    if not choices:
        raise QiError(
            f"--sweep: no installed strategy lays this out on {gpus} GPUs; see the reasons with "
            "--set parallel.name=... and no --sweep, and set train.batch to at least the number of GPUs"
        )
    fitting = sum(choice.found.fits for choice in choices)
    print(f"{asked.where} on {_many(gpus, card)}, {scene.side} px: {fitting} of {len(choices)} layouts fit\n")
    before = _name(recipe, known)
    rows = [[*_row(choice), choice.sets(recipe, before)] for choice in choices[: asked.top]]
    print_table([*HEADS, "change"], rows)
    fast = choices[0]
    if fast.found.fits and fast.found.layout.tensor == 1:
        print("Tensor parallelism is a means to make a model fit; where it fits, data parallelism is faster.")
    return 0 if fitting else 1


HEADS = ("layout", "checkpointing", "at once", "GB a GPU", "step", "MFU", "samples/s")


def _row(choice: Choice) -> list[str]:
    found = choice.found
    return [
        f"{choice.strategy}, {_layout(found)}",
        choice.checkpointing,
        f"{found.micro} x {found.accumulate}",
        _gb(found.peak) if found.fits else f"{_gb(found.peak)}: does not fit",
        _seconds(found.seconds),
        f"{found.mfu:.0%}",
        _rate(found.samples_per_second),
    ]


def _best(asked: Question, scenes: Sequence[Scene], known: Mapping[str, type[Any]], top: int) -> int:
    """The best layouts of every number of GPUs, card and size."""
    rows: list[list[str]] = []
    lacking, like = 0, job(asked.recipe, scenes[0])[0]
    for card, gpus, scene in product(asked.cards, asked.gpus, scenes):
        choices = sweep(asked.recipe, scene, gpus, card, asked.per_node, known, asked.mfu, like)
        where = [f"{gpus} {card.name}", f"{scene.side} px"]
        rows += [[*where, *_row(choice)] for choice in choices[:top]] or [[*where, "none is possible"]]
        lacking += not (choices and choices[0].found.fits)
    print_table(["GPUs", "pictures", *HEADS], [row + [""] * (len(HEADS) + 2 - len(row)) for row in rows])
    return 1 if lacking else 0


def _advice(asked: Question, scene: Scene, known: Mapping[str, type[Any]]) -> str:
    """One concrete line: the fastest layout that fits on as many GPUs, or on how many one does."""
    recipe, gpus, card = asked.recipe, asked.gpus[0], asked.cards[0]
    before, like = _name(recipe, known), job(recipe, scene)[0]
    while gpus <= MOST_GPUS:
        batch = max(recipe.train.batch, gpus)
        larger = evolve(recipe, train=evolve(recipe.train, batch=batch))
        choices = sweep(larger, scene, gpus, card, asked.per_node, known, asked.mfu, like)
        if choices and choices[0].found.fits:
            best = choices[0]
            more = f" --set train.batch={batch}" if batch != recipe.train.batch else ""
            with_gpus = "" if gpus == asked.gpus[0] else f"--gpus {gpus} "
            return f"What fits: {with_gpus}{best.sets(recipe, before)}{more} ({_gb(best.found.peak)} GB a GPU)"
        gpus *= 2
    return "Nothing fits on any number of these cards; take smaller pictures, fewer references or a larger card"


def _name(recipe: Recipe, known: Mapping[str, type[Any]]) -> str:
    return next((name for name, component in known.items() if type(recipe.parallel) is component), "")


def _assumed(asked: Question, one: Estimate) -> list[str]:
    layout = one.layout
    lines = [
        f"captions of {asked.text} tokens (--text)"
        + (f", {asked.references} reference picture(s) of the same size" if asked.references else "")
        + "; encoding them, and evaluations and previews, are not in the time",
    ]
    if asked.mfu:
        lines.append(f"time from an MFU of {asked.mfu:.0%}, as told")
    else:
        lines.append(
            f"products reach {rules.PRODUCTS:.0%} of the peak, everything else {rules.STREAMED:.0%} of the memory's "
            f"bandwidth, collectives {rules.LINKED:.0%} of a link's; "
            + (
                f"{rules.HIDDEN:.0%} of what goes over replicas can hide behind the computation"
                if layout.overlap
                else "nothing hides transfers"
            )
        )
    if layout.tensor > 1:
        lines.append(
            f"tensor = {layout.tensor} is a means to make the model fit, and costs time; "
            "where tensor = 1 fits, it is faster"
        )
    return lines


def _many(gpus: int, card: Card) -> str:
    return f"{gpus} {card.name}"


def _layout(one: Estimate) -> str:
    layout = one.layout
    text = f"{layout.replicas} replica{'s' if layout.replicas > 1 else ''}"
    if layout.tensor > 1:
        text += f" of {layout.tensor} ranks" + (" (sequence parallel)" if layout.sequence else "")
    if layout.weights_over > 1:
        text += f", weights over {layout.weights_over}"
    return text + (", offloaded" if layout.offload else "")


def _batch(recipe: Recipe, one: Estimate) -> str:
    return f"{recipe.train.batch} samples an update, {one.micro} at once on a GPU"


def _gb(size: float) -> str:
    size /= 1e9
    return f"{size:.1f}" if size >= 1 else f"{size:.2f}"


def _rate(a_second: float) -> str:
    return f"{a_second:.0f}" if a_second >= 100 else f"{a_second:.3g}"


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 10 else f"{seconds:.2f} s"


def _long(seconds: float) -> str:
    minutes, hours = seconds / 60, seconds / 3600
    return f"{hours / 24:.1f} days" if hours >= 48 else f"{hours:.1f} h" if hours >= 2 else f"{minutes:.0f} min"
