"""Stores: where checkpoints are kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from attrs import field, frozen

if TYPE_CHECKING:
    from torch import Tensor

    from qi_core.parallel import Team
    from qi_core.shards import Part


@frozen(kw_only=True, eq=False)
class Checkpoint:
    """Everything that a run needs to go on as if it had never stopped."""

    step: int
    """Steps done."""
    tensors: Mapping[str, Mapping[str, Tensor]]
    """Groups (``model``, ``ema``, ``optimizer``) of tensors by name. The names are those of the unsharded model."""
    state: Mapping[str, Any]
    """The rest, JSON values: position in the data, counters, events."""
    recipe: str
    """The resolved recipe, TOML, every default filled in."""
    parts: Mapping[str, Mapping[str, Sequence[Part]]] = field(factory=dict)
    """What is to be saved besides by this one of several ranks: of the same groups, what it holds of tensors that it
    does not hold alone. A checkpoint that is loaded has whole tensors only."""


class Store(Protocol):
    """A live store."""

    def save(self, checkpoint: Checkpoint) -> Path:
        """Write all of it or nothing: beside, flushed to disk, then renamed. Old ones beyond the limit are removed.

        Called by every rank with what it holds. It may return before all is written, once later changes of the tensors
        change nothing of what is saved; then ``wait`` tells how it ended.

        Raises QiError on every rank (disk full, no permission) with what was there before left whole.
        """
        ...

    def wait(self) -> None:
        """Until the last save is whole, on all ranks. Raises what it would have raised."""
        ...

    def took(self) -> float | None:
        """Seconds in which the last save became whole; None as long as it isn't. Waits for nothing, raises nothing."""
        ...

    def latest(self) -> int | None:
        """Step of the newest whole checkpoint, or None. Half-written ones are never taken."""
        ...

    def load(self, step: int | None = None) -> Checkpoint:
        """A checkpoint (the newest). Tensors are read when they are asked for, one at a time, or boxes of them
        (``qi_core.tensorfiles.Regions``). Called by every rank of the team.

        Raises QiError naming the file if one is damaged.
        """
        ...


class StoreComponent(Protocol):
    """The settings of a store."""

    def build(self, folder: Path, team: Team | None = None) -> Store:
        """``folder``: the run's folder. ``team``: the ranks of the run that saves into it, be it one. Without,
        nobody trains meanwhile, and a save is whole when ``save`` returns."""
        ...
