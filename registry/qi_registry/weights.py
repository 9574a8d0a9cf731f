"""The weights of a run, as those who take them from outside want them: of the plain denoiser, all of them.

Beside an adapter a run keeps its frozen denoiser once, in ``base/``; its checkpoints hold what is trained.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from qi_core.errors import QiError
from qi_registry.recipe import Recipe

if TYPE_CHECKING:
    from torch import Tensor

    from qi_core.parallel import Team
    from qi_core.store import Store

AVERAGED, TRAINED = "ema", "model"
"""Groups of a checkpoint."""


class Weights(NamedTuple):
    """What a run has come to."""

    step: int
    group: str
    """Which of a checkpoint's groups they are."""
    tensors: Mapping[str, Tensor]
    """By name, each read (or made) when it is asked for."""


def base_store(recipe: Recipe, folder: Path, team: Team | None = None) -> Store:
    """Where a run keeps the denoiser that its adapter adapts. ``team``: the ranks that read it together."""
    return recipe.store.build(folder / "base", team)


def stored(recipe: Recipe, folder: Path, group: str = AVERAGED) -> Weights:
    """The newest checkpoint's weights as they stand there, with the base that they adapt, if there is one.

    ``group``: the averaged weights, or (also where no average is kept) the trained ones. Raises QiError if the run has
    no checkpoint yet.
    """
    store = recipe.store.build(folder)
    if store.latest() is None:
        raise QiError(f"{folder}: no checkpoint there yet; run it until its first save, or name another run")
    saved = store.load()
    found = group if group in saved.tensors else TRAINED
    tensors: Any = saved.tensors[found]
    if recipe.adapter is not None:
        tensors = ChainMap(tensors, base_store(recipe, folder).load().tensors[TRAINED])  # type: ignore[arg-type]
    return Weights(saved.step, found, tensors)


def plain(recipe: Recipe, folder: Path, group: str = AVERAGED) -> Weights:
    """The same with an adapter worked into the denoiser's own weights."""
    weights = stored(recipe, folder, group)
    if recipe.adapter is None:
        return weights
    return weights._replace(tensors=recipe.adapter.merged(weights.tensors))
