"""Recipe -> Run: builds every part, in the order in which parts need each other."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qi_core.errors import QiError
from qi_core.place import Place
from qi_registry.changer import Changer
from qi_registry.curricula import at_step
from qi_registry.recipe import Recipe, to_toml
from qi_registry.runs import by_key, different_lines, read_run
from qi_registry.weights import AVERAGED, TRAINED, base_store, plain

if TYPE_CHECKING:
    import torch

    from qi_core.adapter import Adapter
    from qi_core.denoiser import DenoiserModule
    from qi_core.encoder import Encoders
    from qi_core.engine import Engine
    from qi_core.generate import Painter
    from qi_core.objective import Objective
    from qi_core.parallel import ParallelComponent, Strategy, Team
    from qi_core.run import Evaluating, Run
    from qi_core.shadow import Shadow
    from qi_core.shards import Held
    from qi_core.store import Checkpoint
    from qi_core.tracker import Change


def assemble(recipe: Recipe, folder: Path, strategy: Strategy | None = None) -> Run:
    """All parts, built; the newest checkpoint of the folder taken, else the weights that ``init`` names.

    ``folder`` exists. ``strategy``: the recipe's, if it is built already. Called by every rank. Raises QiError where a
    part doesn't fit the world or the checkpoint.
    """
    from qi_core.live import Channel

    strategy = strategy or recipe.parallel.build()
    if strategy.team.rank == 0:
        Channel(folder).open()  # before anything slow: what is asked from now on is answered when the loop begins
    from attrs import evolve

    from qi_core import checkpoint
    from qi_core.asking import together
    from qi_core.chores import refuse_preview, refuse_validation
    from qi_core.parallel import Dividing
    from qi_core.run import Run
    from qi_core.source import OnPolicy, Planned
    from qi_registry import specs

    store = recipe.store.build(folder, strategy.team)
    newest = strategy.team.send(store.latest())  # one answer for all ranks
    saved = None if newest is None else store.load(newest)
    base = None if recipe.adapter is None else _kept_base(recipe, folder, strategy.team, saved is not None)
    asked, here = recipe, at_step(recipe, _changes(folder, strategy.team, saved), saved.step if saved else 0)
    recipe = here.recipe
    loads = recipe.init != "" or (saved if recipe.adapter is None else base) is not None
    place = place_of(recipe, folder, strategy, _trained_in(recipe, strategy) if loads else None)
    encoders = encoders_of(recipe, place, elsewhere=specs.encoded_elsewhere(recipe))
    refuse_preview(recipe.preview, encoders)
    place = evolve(place, multiple=encoders.autoencoder.scale)
    source = specs.source(recipe, place)
    cradle = strategy.cradle if isinstance(strategy, Dividing) else strategy.device
    model = _model(recipe, evolve(place, device=cradle), encoders)
    notes = [f"{strategy.device.type}, {str(strategy.dtype).removeprefix('torch.')}{_ranks(strategy)}"]
    notes += [f"source: skipped {count}: {why}" for why, count in source.report().items()]
    adapter = None
    if recipe.adapter is not None:
        adapter = _adapted(recipe, folder, base, model, place, strategy, notes)
    elif saved is None and recipe.init:
        notes.append(_start_from(model, Path(recipe.init)))
    model = strategy.place(model, adapter.sharding(model.sharding()) if adapter else None)
    held = strategy.held(model)
    run = Run(
        folder=folder,
        recipe=to_toml(asked),
        train=recipe.train,
        data=recipe.data,
        guidance=recipe.guidance,
        preview=recipe.preview,
        encoders=encoders,
        model=model,
        objective=recipe.objective,
        sampler=recipe.sampler,
        source=source,
        spec=specs.spec(recipe, source, encoders, strategy),
        engine=_engine(recipe, folder, strategy, isinstance(source, Planned)),
        optimizer=recipe.optimizer.build(model, recipe.train.steps, held),
        strategy=strategy,
        store=store,
        held=held,
        shadows=_shadows(recipe.objective, model, held, recipe.train.ema),
        adapter=adapter,
        trackers=[component.build(place) for component in recipe.tracker] if strategy.team.rank == 0 else [],
        evaluations=together(strategy.team, lambda: _evaluations(recipe, place, strategy.team.rank == 0)),
        change=(changer := Changer(here, place)),
        pace=here.pace(place.multiple),
        scheduled=changer.scheduled if recipe.curriculum is not None else None,
        resolve=changer.resolved,
        notes=notes,
    )
    together(strategy.team, changer.rehearse)
    together(strategy.team, lambda: refuse_validation(run))
    _refuse_twins(recipe)
    if isinstance(source, OnPolicy):
        source.follow(run.models)
    if saved is not None:
        try:
            checkpoint.give_back(run, saved)
        except QiError as error:
            raise QiError(f"{error}{_differing(saved.recipe, run.recipe)}") from error
        notes.append(f"goes on from step {saved.step}")
    return run


def _changes(folder: Path, team: Team, saved: Checkpoint | None) -> list[Change]:
    """What was changed before the checkpoint's step; what was at that step or later comes up again. The same on all
    ranks."""
    from qi_core.live import Ledger
    from qi_core.tracker import Change

    if saved is None:
        return []
    ledger = Ledger(folder)
    told = [Change(step=each["step"], setting=each["setting"]) for each in saved.state["events"]]
    changes = team.send(ledger.read() if ledger.path.exists() else told)
    return [change for change in changes if change.step < saved.step]


def _engine(recipe: Recipe, folder: Path, strategy: Strategy, planned: bool) -> Engine | None:
    """None for a source that draws. Raises QiError if its samples are to be made elsewhere."""
    from qi_core.engine import Inline, Workshop
    from qi_registry import specs

    component = recipe.data.engine
    if not planned:
        if not specs.is_inline(recipe):
            raise QiError(
                f"data.engine: {type(recipe.source).__name__} draws with the model, or cannot plan (qi_core.Planned), "
                'so no other process can make its samples; set data.engine = "inline"'
            )
        return None
    if component is None:
        return Inline(recipe.data.workers)
    return component.build(
        Workshop(
            folder=folder,
            rank=strategy.team.rank,
            ranks=strategy.team.ranks,
            workers=recipe.data.workers,
            command=(sys.executable, "-m", "qi_registry.cli"),
            pinned=strategy.device.type == "cuda",
            tell=lambda line: print(line, file=sys.stderr, flush=True),
        )
    )


def _evaluations(recipe: Recipe, place: Place, main: bool) -> list[Evaluating]:
    """They live on rank 0 alone, which asks the others for pictures and losses."""
    from qi_core.run import Evaluating

    return [
        Evaluating(every=component.every, evaluation=component.build(place) if main else None)
        for component in recipe.evaluation
    ]


def _refuse_twins(recipe: Recipe) -> None:
    """Raises QiError if two evaluations would keep their figures and pictures under one name."""
    titles = [getattr(evaluation, "title", None) for evaluation in recipe.evaluation]
    twins = {title for title in titles if title and titles.count(title) > 1}
    if twins:
        raise QiError(f"evaluation: two are called {min(twins)!r}; give each a title of its own")


def _trained_in(recipe: Recipe, strategy: Strategy) -> torch.dtype:
    import torch

    return torch.float32 if recipe.adapter is None else strategy.dtype


def _kept_base(recipe: Recipe, folder: Path, team: Team, begun: bool) -> Checkpoint | None:
    """The denoiser that an adapter's run keeps. Before a first checkpoint one of another ``init`` is not meant any
    more: it is left by a start that failed."""
    store = base_store(recipe, folder, team)
    newest = team.send(store.latest())  # one answer for all ranks: the first may soon be writing it
    if newest is None:
        return None
    kept = store.load(newest)
    return kept if begun or by_key(kept.recipe).get("init", "") == recipe.init else None


def _adapted(
    recipe: Recipe,
    folder: Path,
    base: Checkpoint | None,
    model: DenoiserModule,
    place: Place,
    strategy: Strategy,
    notes: list[str],
) -> Adapter:
    """The adapter in its denoiser. What the denoiser is at the run's start is kept for its resumes."""
    from qi_core import checkpoint
    from qi_core.team import by_first
    from qi_core.weights import load_weights

    assert recipe.adapter is not None
    where = folder / "base"
    if base is None:
        if recipe.init:
            notes.append(_start_from(model, Path(recipe.init)))

        def keep() -> None:
            kept = base_store(recipe, folder)
            kept.save(checkpoint.first(model.state_dict(), to_toml(recipe)))
            kept.wait()

        by_first(strategy.team, keep)  # the model is whole on every rank until it is placed
    else:
        load_weights(model, base.tensors[TRAINED], f"{where}", "use the recipe that the run was made with")
        notes.append(f"adapts the denoiser that is kept in {where}")
    adapter = recipe.adapter.apply(model, place)
    notes += adapter.notes()
    return adapter


def _ranks(strategy: Strategy) -> str:
    if strategy.team.ranks == 1:
        return ""
    return f", {strategy.team.ranks} ranks in {strategy.replicas} replica{'s' if strategy.replicas > 1 else ''}"


def _shadows(objective: Objective[Any], model: DenoiserModule, held: Held, ema: float) -> dict[str, Shadow]:
    """The average, and what the objective asks for."""
    from qi_core.run import EMA
    from qi_core.shadow import Average, Rule, Shadow, Shadowed

    rules: dict[str, Rule] = {EMA: Average(ema)} if ema else {}
    rules |= objective.shadows() if isinstance(objective, Shadowed) else {}
    return {name: Shadow(model, rule, held) for name, rule in rules.items()}


def _differing(before: str, after: str) -> str:
    """In which of the sections that decide what a checkpoint holds two recipes differ."""
    sections = ("autoencoder.", "conditioner.", "denoiser.", "adapter.", "optimizer.")
    lines = [line for line in different_lines(before, after) if line.startswith(sections)]
    return f" (changed since: {'; '.join(lines)})" if lines else ""


def alone(parallel: ParallelComponent) -> ParallelComponent:
    """For what one process does with a run: in the place of a strategy of several, "single" on the same device and in
    the same precision. One that has no such settings is left as it is."""
    from qi_registry.kinds import KINDS
    from qi_registry.registry import installed

    single = installed().find(KINDS["parallel"], "single").component
    if isinstance(parallel, single) or not (hasattr(parallel, "device") and hasattr(parallel, "precision")):
        return parallel
    known = {name: getattr(parallel, name) for name in ("device", "precision", "threads") if hasattr(parallel, name)}
    try:
        made: ParallelComponent = single(**known)
    except ValueError:  # a device that only this strategy knows
        return parallel
    return made


def painter(recipe: Recipe, folder: Path, group: str = AVERAGED) -> Painter:
    """Only what drawing needs, with the newest checkpoint's weights (``ema``, or ``model`` for the live ones), kept in
    the dtype that the strategy computes in."""
    from qi_core.generate import Painter

    strategy = alone(recipe.parallel).build()
    place = place_of(recipe, folder, strategy, strategy.dtype)
    encoders = encoders_of(recipe, place, cache=False)
    model = _model(recipe, place, encoders).requires_grad_(False)  # so that the strategy leaves its dtype alone
    model = strategy.place(model)
    _load(model, recipe, folder, group)
    return Painter(
        model=model,
        encoders=encoders,
        sampler=recipe.sampler,
        guidance=recipe.guidance,
        strategy=strategy,
        seed=recipe.train.seed,
    )


def place_of(recipe: Recipe, folder: Path, strategy: Strategy, reserve: torch.dtype | None = None) -> Place:
    return Place(device=strategy.device, dtype=strategy.dtype, seed=recipe.train.seed, folder=folder, reserve=reserve)


def encoders_of(recipe: Recipe, place: Place, cache: bool = True, elsewhere: bool = False) -> Encoders:
    """Both, with the cache in front where there is one and it is wanted. ``elsewhere``: others encode the samples, so
    that the conditioner has to be in memory only for what is drawn."""
    from qi_core.encoder import Encoders
    from qi_core.resting import Resting
    from qi_registry import specs

    conditioner = specs.resting(recipe, place) if elsewhere else recipe.conditioner.build(place)
    bare = Encoders(
        autoencoder=recipe.autoencoder.build(place),
        conditioner=conditioner,
        resting=conditioner if isinstance(conditioner, Resting) else None,
    )
    return specs.cached(recipe, place, bare) if cache else bare


def _model(recipe: Recipe, place: Place, encoders: Encoders) -> DenoiserModule:
    return recipe.denoiser.build(place, encoders.autoencoder.width, encoders.conditioner.width)


def _start_from(model: DenoiserModule, folder: Path) -> str:
    """Weights of another run, averaged ones if it kept some."""
    step = _load(model, read_run(folder), folder, AVERAGED)
    return f"starts from the weights of {folder}, step {step}"


def _load(model: DenoiserModule, recipe: Recipe, folder: Path, group: str) -> int:
    """The newest checkpoint's weights into the model; its step."""
    from qi_core.weights import load_weights

    weights = plain(recipe, folder, group)
    where = f"{folder}: checkpoint of step {weights.step}"
    load_weights(model, weights.tensors, where, "it is of another architecture")
    return weights.step
