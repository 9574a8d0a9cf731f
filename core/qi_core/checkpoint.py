"""What of a run goes into a checkpoint, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from qi_core.errors import QiError
from qi_core.run import EMA, Run
from qi_core.source import OnPolicy
from qi_core.store import Checkpoint
from qi_core.tracker import Change
from qi_core.weights import load_weights

if TYPE_CHECKING:
    from torch import Tensor


def take(run: Run) -> Checkpoint:
    """Everything the run needs to go on. Random numbers need no state: they follow from seed, step and slot.

    Beside an adapter the frozen denoiser is left out: it is kept once for the whole run.
    """
    kept = kept_names(run)
    weights = {"model": run.model.state_dict(), **{name: shadow.tensors() for name, shadow in run.shadows.items()}}
    tensors = {group: {name: all_of[name] for name in kept} for group, all_of in weights.items()}
    tensors["optimizer"] = run.optimizer.tensors()
    if isinstance(run.source, OnPolicy):
        tensors["source"] = dict(run.source.tensors())
    return Checkpoint(
        step=run.step,
        tensors=tensors,
        state={
            "source": run.position,
            "optimizer": run.optimizer.state(),
            "updates": {name: shadow.updates for name, shadow in run.shadows.items()},
            "skipped_updates": run.skipped_updates,
            "norms": run.norms,
            "events": [{"step": change.step, "setting": change.setting} for change in run.ledger.read()],
        },
        recipe=run.recipe,
    )


def kept_names(run: Run) -> list[str]:
    """The weights that checkpoints hold: all of them, or beside an adapter those that are trained."""
    if run.adapter is None:
        return list(run.model.state_dict())
    return [name for name, parameter in run.model.named_parameters() if parameter.requires_grad]


def first(weights: Mapping[str, Tensor], recipe: str) -> Checkpoint:
    """Step 0 of a run whose weights come from elsewhere."""
    state = {"source": {}, "optimizer": {}, "updates": {}, "skipped_updates": 0, "norms": [], "events": []}
    return Checkpoint(step=0, tensors={"model": weights}, state=state, recipe=recipe)


def give_back(run: Run, checkpoint: Checkpoint) -> None:
    """Make the run what it was. Raises QiError where the checkpoint is of another architecture."""
    where = f"{run.folder}: checkpoint of step {checkpoint.step}"
    load_weights(
        run.model,
        checkpoint.tensors["model"],
        where,
        "it is a checkpoint of another architecture: use the recipe it was made with, another --folder, or --fresh",
        names=kept_names(run),
    )
    if checkpoint.step:
        run.optimizer.load(checkpoint.tensors.get("optimizer", {}), checkpoint.state["optimizer"])
        run.source.load_state_dict(checkpoint.state["source"])
        run.position = checkpoint.state["source"]
        if isinstance(run.source, OnPolicy):
            run.source.load_tensors(checkpoint.tensors.get("source", {}))
    for name, shadow in run.shadows.items():
        if name not in checkpoint.tensors and checkpoint.step:
            advice = "set train.ema = 0" if name == EMA else "begin another run from it with init"
            raise QiError(f"{where}: no weights called {name!r} in it; the recipe asks for some; {advice}")
        shadow.load(checkpoint.tensors.get(name, checkpoint.tensors["model"]), _updates(checkpoint, name))
    run.step = checkpoint.step
    run.skipped_updates, run.norms = checkpoint.state["skipped_updates"], list(checkpoint.state.get("norms", ()))
    if not run.ledger.path.exists():  # the checkpoint was copied here alone: it brings its events along
        for event in checkpoint.state["events"]:
            run.ledger.append(Change(step=event["step"], setting=event["setting"]))


def _updates(checkpoint: Checkpoint, name: str) -> int:
    """How often a shadow has followed. Checkpoints once knew the average alone, as ``ema_updates``."""
    known = checkpoint.state.get("updates", {EMA: checkpoint.state.get("ema_updates", 0)})
    return int(known.get(name, 0))
