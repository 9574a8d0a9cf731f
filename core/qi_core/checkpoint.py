"""What of a run goes into a checkpoint, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from qi_core.errors import QiError
from qi_core.run import EMA, Run
from qi_core.shards import Part, fill_all
from qi_core.source import OnPolicy
from qi_core.store import Checkpoint
from qi_core.tracker import Change

if TYPE_CHECKING:
    from torch import Tensor


def take(run: Run) -> Checkpoint:
    """Everything the run needs to go on. Random numbers need no state: they follow from seed, step and slot.

    Beside an adapter the frozen denoiser is left out: it is kept once for the whole run. Of several ranks each takes
    what it holds.
    """
    held, names = run.held, kept_names(run)
    pieces = {"model": {**held.frozen, **held.trained}, **{name: s.tensors() for name, s in run.shadows.items()}}
    parts = {group: {name: held.parts(name, all_of[name]) for name in names} for group, all_of in pieces.items()}
    parts["optimizer"] = {
        name: held.parts(name.partition("/")[2], tensor) if tensor.ndim else _shared(run, tensor)
        for name, tensor in run.optimizer.tensors().items()
    }
    if isinstance(run.source, OnPolicy):
        parts["source"] = {name: _shared(run, tensor) for name, tensor in run.source.tensors().items()}
    alone = run.strategy.team.ranks == 1
    return Checkpoint(
        step=run.step,
        tensors={group: {name: one.tensor for name, (one,) in own.items()} for group, own in parts.items()}
        if alone
        else {},
        parts={} if alone else parts,
        state={
            "source": run.position,
            "optimizer": run.optimizer.state(),
            "updates": {name: shadow.updates for name, shadow in run.shadows.items()},
            "skipped_updates": run.skipped_updates,
            "norms": run.norms,
            "lost": dict(run.losses.counts),
            "events": [{"step": change.step, "setting": change.setting} for change in run.ledger.read()],
        },
        recipe=run.recipe,
    )


def kept_names(run: Run) -> list[str]:
    """The weights that checkpoints hold: all of them, or beside an adapter those that are trained."""
    return [*run.held.trained, *(() if run.adapter else run.held.frozen)]


def _shared(run: Run, tensor: Tensor) -> Sequence[Part]:
    """What every rank holds."""
    team, shape = run.strategy.team, tuple(tensor.shape)
    return (Part(tensor=tensor, shape=shape, offsets=(0,) * len(shape), copy=team.rank, copies=team.ranks),)


def first(weights: Mapping[str, Tensor], recipe: str) -> Checkpoint:
    """Step 0 of a run whose weights come from elsewhere."""
    state = {"source": {}, "optimizer": {}, "updates": {}, "skipped_updates": 0, "norms": [], "events": []}
    return Checkpoint(step=0, tensors={"model": weights}, state=state, recipe=recipe)


def give_back(run: Run, checkpoint: Checkpoint) -> None:
    """Make the run what it was. Raises QiError where the checkpoint is of another architecture."""
    where = f"{run.folder}: checkpoint of step {checkpoint.step}"
    advice = "it is a checkpoint of another architecture: use the recipe it was made with, another --folder, or --fresh"
    saved = checkpoint.tensors
    fill_all(run.held, saved["model"], where, advice, kept_names(run))
    if checkpoint.step:
        run.optimizer.load(saved.get("optimizer", {}), checkpoint.state["optimizer"])
        run.source.load_state_dict(checkpoint.state["source"])
        run.position = checkpoint.state["source"]
        if isinstance(run.source, OnPolicy):
            run.source.load_tensors(saved.get("source", {}))
    for name, shadow in run.shadows.items():
        if name not in saved and checkpoint.step:
            advice = "set train.ema = 0" if name == EMA else "begin another run from it with init"
            raise QiError(f"{where}: no weights called {name!r} in it; the recipe asks for some; {advice}")
        shadow.load(saved.get(name, saved["model"]), _updates(checkpoint, name))
    run.step = checkpoint.step
    run.losses.load(checkpoint.state.get("lost", {}))
    run.skipped_updates, run.norms = checkpoint.state["skipped_updates"], list(checkpoint.state.get("norms", ()))
    if run.main and not run.ledger.path.exists():  # the checkpoint was copied here alone: it brings its events along
        for event in checkpoint.state["events"]:
            run.ledger.append(Change(step=event["step"], setting=event["setting"]))


def _updates(checkpoint: Checkpoint, name: str) -> int:
    """How often a shadow has followed. Checkpoints once knew the average alone, as ``ema_updates``."""
    known = checkpoint.state.get("updates", {EMA: checkpoint.state.get("ema_updates", 0)})
    return int(known.get(name, 0))
