"""The folder of a cache as one process sees it: what exists, and what came to grief. All its parts share one lock."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from qi_core.cache.catalogue import Catalogue
from qi_core.cache.manifest import Manifest, Why
from qi_core.cache.shards import DATA, INDEX, PART, Reader, is_alive
from qi_core.errors import QiError

FRESH = 1.0
"""Seconds between two looks at what others have published."""


class Ledger:
    """Raises QiError where the folder can't be used; later troubles of the disk are told and counted, never raised."""

    def __init__(self, folder: Path, tell: Callable[[str], None]) -> None:
        self.folder, self.tell = folder, tell
        self.making, self.spoiled, self.foreign = folder / "writing", folder / "spoiled", folder / "foreign"
        self.lock = threading.RLock()
        self.counts: Counter[str] = Counter()
        self.elsewhere: Callable[[str], bool] = lambda name: False
        """Whether a mirror has a shard."""
        self._told: set[str] = set()
        self._looked, self._seen = 0.0, -1
        try:
            for each in (folder, self.making, self.spoiled, self.foreign):
                each.mkdir(parents=True, exist_ok=True)
            self.manifest = Manifest(folder, tell)
            self._sweep()
        except OSError as error:
            raise QiError(
                f"data.cache.path: {folder}: {error.strerror or error}; a folder that can be written was wanted"
            ) from error
        self.reader = Reader(folder)
        self.catalogue = Catalogue(folder)
        self.refresh(force=True)

    def refresh(self, force: bool = False) -> None:
        """Take note of what others have published and taken away."""
        if not force and time.monotonic() < self._looked + FRESH:
            return
        self._looked = time.monotonic()
        try:
            self.manifest.refresh()
        except OSError as error:
            self.once(f"cache: {self.manifest.path}: {error.strerror or error}; goes on without news of others")
        self.catch_up()

    def catch_up(self) -> None:
        """What the manifest says, in the catalogue."""
        if self._seen != self.manifest.version:
            self._seen = self.manifest.version
            for name in self.catalogue.update(self.manifest.live, self.elsewhere):
                self.set_aside(name, "spoiled", "its index is damaged")

    def set_aside(self, name: str, why: Why, detail: str) -> None:
        """A shard that isn't what was written: nobody reads it any more, and what it held is encoded again."""
        with self.lock:
            try:
                with self.manifest.locked():
                    self.manifest.refresh()
                    if name not in self.manifest.live:
                        return  # another thread or process was faster, or it was taken away
                    self.manifest.withdraw(name, why)
                    with suppress(OSError):
                        (self.folder / f"{name}{DATA}").rename(self.spoiled / f"{name}{DATA}")
                self.manifest.refresh()
            except OSError as error:
                self.manifest.lose(name, why)  # at least not for this process
                detail += f"; and this could not be noted: {error.strerror or error}"
            self.reader.drop(name)
            self.counts[f"shards {why}"] += 1
            self.tell(f"cache: shard {name} is {why} ({detail}); what it held is encoded again")

    def _sweep(self) -> None:
        """Delete what dead processes have left, and shards without a line: they were never published."""
        with self.manifest.locked():
            for path in self.making.glob(f"*{PART}"):
                if not is_alive(self.making / f"{path.name.partition('.')[0]}{PART}"):
                    path.unlink(missing_ok=True)
                    self.counts["files swept"] += 1
            self.manifest.refresh()
            for path in (*self.folder.glob(f"*{DATA}"), *self.folder.glob(f"*{INDEX}")):
                if path.stem not in self.manifest.live:
                    path.unlink(missing_ok=True)
                    self.counts["files swept"] += 1

    def count(self, what: str, number: int = 1) -> None:
        """For figures; from any thread."""
        with self.lock:
            self.counts[what] += number

    def once(self, text: str) -> None:
        """Tell it, unless it has been told."""
        if text not in self._told:
            self._told.add(text)
            self.tell(text)
