"""Recipe -> Run: builds every part, in the order in which parts need each other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from qi_core.errors import QiError
from qi_core.place import Place
from qi_registry.changes import apply_setting
from qi_registry.recipe import Recipe, to_toml
from qi_registry.runs import LIVE, different_lines, is_live, read_run

if TYPE_CHECKING:
    import torch

    from qi_core.denoiser import DenoiserModule
    from qi_core.encoder import Encoders
    from qi_core.generate import Painter
    from qi_core.parallel import Strategy
    from qi_core.run import Run
    from qi_core.store import Store


def assemble(recipe: Recipe, folder: Path) -> Run:
    """All parts, built; the newest checkpoint of the folder taken, else the weights that ``init`` names.

    ``folder`` exists. Raises QiError where a part doesn't fit the world or the checkpoint.
    """
    from qi_core.live import Channel

    Channel(folder).open()  # before anything slow: what is asked from now on is answered when the loop begins
    import torch
    from attrs import evolve

    from qi_core import checkpoint
    from qi_core.chores import refuse_preview
    from qi_core.optimizer import Ema
    from qi_core.run import Evaluating, Run

    store = recipe.store.build(folder)
    saved = None if store.latest() is None else store.load()
    loads = saved is not None or recipe.init != ""
    strategy, place = _place(recipe, folder, lambda _: torch.float32 if loads else None)
    encoders = _encoders(recipe, place)
    refuse_preview(recipe.preview, encoders)
    place = evolve(place, multiple=encoders.autoencoder.scale)
    source = recipe.source.build(place, place.multiple)
    model = strategy.place(_model(recipe, place, encoders))
    notes = [f"{strategy.device.type}, {str(strategy.dtype).removeprefix('torch.')}"]
    notes += [f"source: skipped {count}: {why}" for why, count in source.report().items()]
    if saved is None and recipe.init:
        notes.append(_start_from(model, Path(recipe.init)))
    run = Run(
        folder=folder,
        recipe=to_toml(recipe),
        train=recipe.train,
        guidance=recipe.guidance,
        preview=recipe.preview,
        encoders=encoders,
        model=model,
        objective=recipe.objective,
        sampler=recipe.sampler,
        source=source,
        optimizer=recipe.optimizer.build(model, recipe.train.steps),
        strategy=strategy,
        store=store,
        ema=Ema(model, recipe.train.ema) if recipe.train.ema else None,
        trackers=[component.build(place) for component in recipe.tracker] if strategy.main else [],
        evaluations=[
            Evaluating(every=component.every, evaluation=component.build(place)) for component in recipe.evaluation
        ],
        change=Changer(recipe),
        notes=notes,
    )
    if saved is not None:
        try:
            checkpoint.give_back(run, saved)
        except QiError as error:
            raise QiError(f"{error}{_differing(saved.recipe, run.recipe)}") from error
        notes.append(f"goes on from step {saved.step}")
    return run


def _differing(before: str, after: str) -> str:
    """In which of the sections that decide what a checkpoint holds two recipes differ."""
    sections = ("autoencoder.", "conditioner.", "denoiser.", "optimizer.")
    lines = [line for line in different_lines(before, after) if line.startswith(sections)]
    return f" (changed since: {'; '.join(lines)})" if lines else ""


class Changer:
    """Checks a setting of a live run as a recipe is checked; what it returns puts it into effect."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    def __call__(self, run: Run, setting: str) -> Callable[[], None]:
        from qi_core.chores import refuse_preview

        refuse_if_fixed(setting)
        recipe = apply_setting(self.recipe, setting)
        refuse_preview(recipe.preview, run.encoders)

        def take_effect() -> None:
            self.recipe = recipe
            run.sampler = recipe.sampler
            run.preview = recipe.preview
            run.guidance = recipe.guidance
            lr = getattr(recipe.optimizer, "lr", None)
            if lr is not None:
                run.optimizer.lr = lr

        return take_effect


def refuse_if_fixed(setting: str) -> None:
    """Raises QiError if the setting is none of those that a live run can take."""
    if not is_live(setting):
        key = setting.partition("=")[0].strip()
        raise QiError(
            f"{key}: can't be changed while a run goes on (what can: {', '.join(LIVE)}); "
            "stop the run and resume it with --set"
        )


def painter(recipe: Recipe, folder: Path, weights: str = "ema") -> Painter:
    """Only what drawing needs, with the newest checkpoint's weights (``ema``, or ``model`` for the live ones), kept in
    the dtype that the strategy computes in."""
    from qi_core.generate import Painter

    strategy, place = _place(recipe, folder, lambda strategy: strategy.dtype)
    encoders = _encoders(recipe, place)
    model = _model(recipe, place, encoders).requires_grad_(False)  # so that the strategy leaves its dtype alone
    model = strategy.place(model)
    _load(model, recipe.store.build(folder), folder, weights)
    return Painter(
        model=model,
        encoders=encoders,
        sampler=recipe.sampler,
        guidance=recipe.guidance,
        strategy=strategy,
        seed=recipe.train.seed,
    )


def _place(recipe: Recipe, folder: Path, reserve: Callable[[Strategy], torch.dtype | None]) -> tuple[Strategy, Place]:
    strategy = recipe.parallel.build()
    return strategy, Place(
        device=strategy.device,
        dtype=strategy.dtype,
        seed=recipe.train.seed,
        folder=folder,
        reserve=reserve(strategy),
    )


def _encoders(recipe: Recipe, place: Place) -> Encoders:
    from qi_core.encoder import Encoders

    return Encoders(autoencoder=recipe.autoencoder.build(place), conditioner=recipe.conditioner.build(place))


def _model(recipe: Recipe, place: Place, encoders: Encoders) -> DenoiserModule:
    return recipe.denoiser.build(place, encoders.autoencoder.width, encoders.conditioner.width)


def _start_from(model: DenoiserModule, folder: Path) -> str:
    """Weights of another run, averaged ones if it kept some."""
    step = _load(model, read_run(folder).store.build(folder), folder, "ema")
    return f"starts from the weights of {folder}, step {step}"


def _load(model: DenoiserModule, store: Store, folder: Path, weights: str) -> int:
    """The newest checkpoint's weights into the model; its step."""
    from qi_core.weights import load_weights

    if store.latest() is None:
        raise QiError(f"{folder}: no checkpoint there yet; run it until its first save, or name another run")
    saved = store.load()
    group = weights if weights in saved.tensors else "model"
    where = f"{folder}: checkpoint of step {saved.step}"
    load_weights(model, saved.tensors[group], where, "it is of another architecture")
    return saved.step
