"""What of a run goes into a checkpoint, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from qi_core.errors import QiError
from qi_core.run import Run
from qi_core.store import Checkpoint
from qi_core.tracker import Change
from qi_core.weights import load_weights

if TYPE_CHECKING:
    from torch import Tensor


def take(run: Run) -> Checkpoint:
    """Everything the run needs to go on. Random numbers need no state: they follow from seed, step and slot."""
    tensors = {"model": dict(run.model.state_dict()), "optimizer": run.optimizer.tensors()}
    if run.ema:
        tensors["ema"] = run.ema.tensors()
    return Checkpoint(
        step=run.step,
        tensors=tensors,
        state={
            "source": run.position,
            "optimizer": run.optimizer.state(),
            "ema_updates": run.ema.updates if run.ema else 0,
            "skipped_updates": run.skipped_updates,
            "events": [{"step": change.step, "setting": change.setting} for change in run.ledger.read()],
        },
        recipe=run.recipe,
    )


def first(weights: Mapping[str, Tensor], recipe: str) -> Checkpoint:
    """Step 0 of a run whose weights come from elsewhere."""
    state = {"source": {}, "optimizer": {}, "ema_updates": 0, "skipped_updates": 0, "events": []}
    return Checkpoint(step=0, tensors={"model": weights}, state=state, recipe=recipe)


def give_back(run: Run, checkpoint: Checkpoint) -> None:
    """Make the run what it was. Raises QiError where the checkpoint is of another architecture."""
    where = f"{run.folder}: checkpoint of step {checkpoint.step}"
    load_weights(
        run.model,
        checkpoint.tensors["model"],
        where,
        "it is a checkpoint of another architecture: use the recipe it was made with, another --folder, or --fresh",
    )
    if checkpoint.step:
        run.optimizer.load(checkpoint.tensors.get("optimizer", {}), checkpoint.state["optimizer"])
        run.source.load_state_dict(checkpoint.state["source"])
        run.position = checkpoint.state["source"]
    if run.ema:
        if "ema" not in checkpoint.tensors and checkpoint.step:
            raise QiError(f"{where}: no averaged weights in it; the recipe asks for some; set train.ema = 0")
        run.ema.load(checkpoint.tensors.get("ema", checkpoint.tensors["model"]), checkpoint.state["ema_updates"])
    run.step = checkpoint.step
    run.skipped_updates = checkpoint.state["skipped_updates"]
    if not run.ledger.path.exists():  # the checkpoint was copied here alone: it brings its events along
        for event in checkpoint.state["events"]:
            run.ledger.append(Change(step=event["step"], setting=event["setting"]))
