"""What goes into a cache: shards that are filled, published, and taken away when the room is wanted."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from qi_core.cache.ledger import FRESH, Ledger
from qi_core.cache.manifest import Form
from qi_core.cache.settings import CacheSettings
from qi_core.cache.shards import DATA, INDEX, Writer, place

MOST_OPEN = 64
"""Shards that one process fills at a time; one more, and the oldest is published as it is."""
MOST_FINISHING = 4
"""Shards that are being flushed to the disk at a time; then whoever stores waits."""
TOUCH = 60.0
"""Seconds between two notes that a shard is in use."""
REASONS = ("", "latent is not finite", "text embedding is not finite")
"""Why an entry has no bytes. A number in the index: only ever append."""


class Storing:
    """The writing side. Any thread may call."""

    def __init__(self, ledger: Ledger, settings: CacheSettings) -> None:
        self._ledger, self._settings = ledger, settings
        self._publisher = ThreadPoolExecutor(1, "qi-cache")
        self._writers: dict[Form, Writer] = {}
        self._pending: dict[bytes, Writer] = {}
        self._finishing: dict[Writer, Future[None]] = {}
        self._used: dict[str, float] = {}
        self._stopped = False
        self._others, self._measured = 0, -FRESH

    def pending(self, id: bytes) -> Writer | None:
        """Where it is while its shard isn't published."""
        return self._pending.get(id)

    def put(self, form: Form, id: bytes, grid: tuple[int, int, int], view: memoryview, reason: int) -> None:
        """Keep it, unless it is here. A disk that is full ends the storing and nothing else."""
        stored = False
        while not stored:
            with self._ledger.lock:
                stored, wait_for = self._try(form, id, lambda writer: writer.add(id, grid, view, reason), len(view))
            if wait_for is not None:  # without the lock: it needs it
                wait_for.result()

    def _try(
        self, form: Form, id: bytes, add: Callable[[Writer], object], size: int
    ) -> tuple[bool, Future[None] | None]:
        """Whether that was all, and what to wait for."""
        counts = self._ledger.counts
        if id in self._pending or self._published(id):
            counts["duplicates"] += 1
            return True, None
        if not self._stopped and not self._room(size) and (self._writers or self._finishing):
            if self._settings.full == "evict":  # what is open can't be evicted
                for each in list(self._writers):
                    self._finish(each)
                return False, next(iter(self._finishing.values()))
            self._stop(f"{self._ledger.folder}: the quota of {self._settings.quota} bytes is used up")
        if self._stopped or not self._room(size):
            counts["not stored"] += 1
            return True, None
        try:
            writer = self._writer(form)
            add(writer)
        except OSError as error:
            self._give_up(form, error)
            return True, None
        self._pending[id] = writer
        counts["stored"] += 1
        counts["stored bytes"] += size
        self._publish_due()
        many = len(self._finishing) > MOST_FINISHING
        return True, next(iter(self._finishing.values())) if many else None

    def _published(self, id: bytes) -> bool:
        live = self._ledger.manifest.live
        return any(entry.shard in live for entry in self._ledger.catalogue.find([id])[0])

    def _writer(self, form: Form) -> Writer:
        if form not in self._writers:
            while len(self._writers) >= MOST_OPEN:
                self._finish(next(iter(self._writers)))
            with self._ledger.manifest.locked():  # nobody sweeps before it has its own lock
                self._writers[form] = Writer(self._ledger.making, form)
        return self._writers[form]

    def _give_up(self, form: Form, error: OSError) -> None:
        """The shard that could not grow goes, and with it the room that it took; nothing is stored any more."""
        writer = self._writers.pop(form, None)
        if writer is not None:
            self._forget(writer)
            writer.abort()
            self._ledger.counts["not stored"] += len(writer.entries)
        self._ledger.counts["not stored"] += 1
        self._stop(f"{self._ledger.folder}: {error.strerror or error}")

    def _stop(self, why: str) -> None:
        if not self._stopped:
            self._stopped = True
            self._ledger.tell(f"cache: {why}; nothing more is stored, what is there is read, and the run goes on")

    def _forget(self, writer: Writer) -> None:
        for id in writer.entries:
            if self._pending.get(id) is writer:
                del self._pending[id]

    def _publish_due(self) -> None:
        now = time.monotonic()
        for form, writer in list(self._writers.items()):
            if writer.bytes >= self._settings.shard_bytes or now > writer.begun + self._settings.publish_seconds:
                self._finish(form)

    def _finish(self, form: Form) -> None:
        """Publish it in the background: until then it is read from where it was written."""
        writer = self._writers.pop(form)
        self._finishing[writer] = self._publisher.submit(self._publish, writer)

    def _publish(self, writer: Writer) -> None:
        ledger = self._ledger
        try:
            shard, index = writer.finish()
            with ledger.lock, ledger.manifest.locked():
                ledger.manifest.refresh()
                place(shard, writer.path, index, ledger.folder)
                ledger.manifest.publish(shard)
                ledger.counts["shards published"] += 1
        except OSError as error:
            with ledger.lock:
                ledger.counts["not stored"] += len(writer.entries)
                self._stop(f"{ledger.folder}: {error.strerror or error}")
            writer.abort()
        finally:
            with ledger.lock:
                self._finishing.pop(writer, None)
                ledger.refresh(force=True)
                ledger.counts["duplicates"] += self._twins(writer)
                self._forget(writer)
            writer.close()

    def _twins(self, writer: Writer) -> int:
        """How many of its entries another shard had before."""
        live = self._ledger.manifest.live
        found = self._ledger.catalogue.find(list(writer.entries))
        return sum(sum(entry.shard in live for entry in own) > 1 for own in found)

    def flush(self) -> None:
        """Publish all that is open; it is on the disk when this returns."""
        with self._ledger.lock:
            for form in list(self._writers):
                self._finish(form)
            waiting = list(self._finishing.values())
        for one in waiting:
            one.result()

    def close(self) -> None:
        """Publish, and end the thread."""
        self.flush()
        self._publisher.shutdown()

    def touch(self, name: str) -> None:
        """Note that a shard is in use, for those who take away what isn't."""
        now = time.monotonic()
        if now > self._used.get(name, -TOUCH) + TOUCH:
            self._used[name] = now
            with suppress(OSError):
                os.utime(self._ledger.folder / f"{name}{INDEX}")

    def _room(self, more: int) -> bool:
        """Whether so many bytes may be added; under "evict", room is made."""
        quota = self._settings.quota
        if not quota or self._taken() + more <= quota:
            return True
        if self._settings.full == "evict":
            self._evict(quota - more)
        return self._taken() + more <= quota

    def _taken(self) -> int:
        """Bytes of published shards, and of those that are being written, by this process and, as they were a moment
        ago, by others."""
        own = [*self._writers.values(), *self._finishing]
        now = time.monotonic()
        if now > self._measured + FRESH:
            self._measured = now
            self._others = _written(self._ledger.making, {writer.path.name for writer in own})
        return sum(writer.size for writer in own) + self._others + self._ledger.manifest.bytes

    def _evict(self, limit: int) -> None:
        """Take away the shards that were not read for longest, until no more than ``limit`` bytes are left."""
        ledger = self._ledger
        with suppress(OSError), ledger.manifest.locked():
            ledger.manifest.refresh()
            ages = {name: _last_used(ledger.folder / f"{name}{INDEX}") for name in ledger.manifest.live}
            for name in sorted(ages, key=lambda name: ages[name]):
                if self._taken() <= limit:
                    break
                ledger.manifest.withdraw(name, "evicted")
                for ending in (DATA, INDEX):
                    (ledger.folder / f"{name}{ending}").unlink(missing_ok=True)
                ledger.manifest.refresh()
                ledger.reader.drop(name)
                ledger.counts["shards evicted"] += 1


def _written(folder: Path, but: set[str]) -> int:
    """Bytes of the shards in the making, other than some."""
    total = 0
    with suppress(OSError):
        for entry in os.scandir(folder):
            with suppress(OSError):  # published just now
                total += 0 if entry.name in but else entry.stat().st_size
    return total


def _last_used(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
