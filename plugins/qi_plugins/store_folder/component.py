"""Settings of the store "folder"."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from attrs import field, frozen, validators

if TYPE_CHECKING:
    from qi_core import Store, Team


@frozen(kw_only=True)
class Folder:
    """Checkpoints in ``checkpoints/step-00000100/`` of the run's folder: safetensors and JSON, never pickle."""

    keep: int = field(default=3, validator=validators.ge(0))
    """So many of the newest are kept; 0: all."""
    shard_bytes: int = field(default=5_000_000_000, validator=validators.gt(0))
    """Tensors of one group go into files of at most so many bytes (a bigger tensor gets a file of its own)."""
    background: bool = True
    """Training goes on while a checkpoint is written. A copy of all that is saved takes main memory for it, from the
    first save to the end of the run."""

    def build(self, folder: Path, team: Team | None = None) -> Store:
        """The store of one run."""
        from qi_plugins.store_folder.store import FolderStore

        return FolderStore(folder / "checkpoints", self, team)
