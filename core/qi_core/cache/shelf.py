"""The cache of one folder: what is found, read and stored. Any thread may call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path

from attrs import frozen

from qi_core.cache.index import Entry
from qi_core.cache.ledger import Ledger
from qi_core.cache.manifest import Form, Shard
from qi_core.cache.remote import Failed, Mirror
from qi_core.cache.settings import CacheSettings
from qi_core.cache.shards import INDEX, Span, Writer
from qi_core.cache.storing import REASONS, Storing
from qi_core.calls import read_token
from qi_core.errors import QiError

FIRST_NEWS = 60.0
"""Seconds that a start waits for what mirrors have."""


@frozen(kw_only=True)
class Hit:
    """An entry that can be read."""

    entry: Entry
    writer: Writer | None = None
    """Where it is while its shard isn't published."""
    shard: Shard | None = None
    """Its shard in this folder; None if only a mirror has it."""

    @property
    def refused(self) -> str:
        """Why there is nothing to read; "" where there is."""
        number = self.entry.reason
        return REASONS[number] if number < len(REASONS) else f"reason {number}"


class Shelf:
    """Raises QiError where the folder can't be used, or a mirror wants another token. Later troubles of disk and
    network are told and counted, never raised."""

    def __init__(self, settings: CacheSettings, tell: Callable[[str], None]) -> None:
        self.settings = settings
        token = _token(settings.token_file)
        self._mirrors = [Mirror(address, token, tell) for address in settings.mirrors]
        try:
            for mirror in self._mirrors:
                mirror.open()
        except QiError:
            for mirror in self._mirrors:
                mirror.close()
            raise
        self._ledger = Ledger(settings.path.expanduser(), tell)
        self._ledger.elsewhere = self._elsewhere
        self._storing = Storing(self._ledger, settings)
        self._errands = ThreadPoolExecutor(1, "qi-mirrors")
        known = [(mirror, list(mirror.listing.live.values())) for mirror in self._mirrors]
        news = [self._errands.submit(self._fetch, mirror, shards) for mirror, shards in known]
        wait(news, timeout=FIRST_NEWS)  # what comes later comes beside the run

    def find(self, ids: Sequence[bytes]) -> list[Hit | None]:
        """Where each is, None where it must be encoded."""
        ledger = self._ledger
        with ledger.lock:
            ledger.refresh()
            for mirror in self._mirrors:
                if mirror.due:
                    mirror.asked()
                    self._errands.submit(self._ask, mirror)
            hits: list[Hit | None] = [self._pending(id) for id in ids]
            wanted = [i for i, hit in enumerate(hits) if hit is None]
            for i, entries in zip(wanted, ledger.catalogue.find([ids[i] for i in wanted]), strict=True):
                hits[i] = self._best(entries)
            found = sum(hit is not None for hit in hits)
            ledger.counts["hits"] += found
            ledger.counts["misses"] += len(ids) - found
            return hits

    def _pending(self, id: bytes) -> Hit | None:
        writer = self._storing.pending(id)
        return None if writer is None else Hit(entry=writer.entries[id], writer=writer)

    def _best(self, entries: Sequence[Entry]) -> Hit | None:
        """The one that was published first, here; else one that a mirror has."""
        live, order = self._ledger.manifest.live, self._ledger.catalogue.order
        here = [entry for entry in entries if entry.shard in live]
        if here:
            first = min(here, key=lambda entry: order.get(entry.shard, 0))
            return Hit(entry=first, shard=live[first.shard])
        there = [entry for entry in entries if self._having(entry.shard)]
        return Hit(entry=there[0]) if there else None

    def read(self, hits: Sequence[Hit], views: Sequence[memoryview]) -> list[bool]:
        """The bytes of each, into a buffer of its length. False: they could not be had, encode it again."""
        good = [False] * len(hits)
        groups: dict[str, list[int]] = {}
        for i, hit in enumerate(hits):
            groups.setdefault(hit.entry.shard, []).append(i)
        for own in groups.values():
            fine = self._read_group(hits[own[0]], [(hits[i].entry, views[i]) for i in own])
            for i, one in zip(own, fine, strict=True):
                good[i] = one
        self._ledger.count("read bytes", sum(len(view) for view, fine in zip(views, good, strict=True) if fine))
        self._ledger.count("not read", good.count(False))
        return good

    def _read_group(self, hit: Hit, spans: Sequence[Span]) -> list[bool]:
        """Entries of one shard."""
        if hit.writer is not None:
            return self._read_pending(hit.writer, spans)
        good = [False] * len(spans) if hit.shard is None else self._read_here(hit.shard, spans)
        name = hit.entry.shard
        for mirror in self._having(name):
            bad = [i for i, fine in enumerate(good) if not fine]
            if not bad:
                break
            for i, fine in zip(bad, mirror.read(name, [spans[i] for i in bad]), strict=True):
                good[i] = fine
                self._ledger.count("from mirrors", int(fine))
                if fine and self.settings.keep:
                    entry, view = spans[i]
                    self._storing.put(mirror.listing.live[name].form, entry.id, entry.grid, view, 0)
        return good

    def _read_pending(self, writer: Writer, spans: Sequence[Span]) -> list[bool]:
        try:
            return writer.read(spans)
        except (OSError, EOFError, ValueError):  # ValueError: published meanwhile, and closed
            again = self.find([entry.id for entry, _ in spans])
        return [
            hit is not None and hit.shard is not None and self._read_here(hit.shard, [(hit.entry, view)])[0]
            for hit, (_, view) in zip(again, spans, strict=True)
        ]

    def _read_here(self, shard: Shard, spans: Sequence[Span]) -> list[bool]:
        try:
            good = self._ledger.reader.read(shard, spans)
        except FileNotFoundError as error:
            self._ledger.set_aside(shard.name, "missing", str(error))
            return [False] * len(spans)
        except (OSError, EOFError) as error:
            self._ledger.set_aside(shard.name, "spoiled", str(error))
            return [False] * len(spans)
        if not all(good):
            self._ledger.set_aside(shard.name, "spoiled", f"{good.count(False)} of {len(good)} checksums are wrong")
        self._storing.touch(shard.name)
        return good

    def put(
        self, form: Form, id: bytes, grid: tuple[int, int, int], data: memoryview | bytes, reason: str = ""
    ) -> None:
        """Keep it, unless it is here. ``reason``: why there is no data, one of ``REASONS``."""
        view = memoryview(data).cast("B") if len(data) else memoryview(b"")
        self._storing.put(form, id, grid, view, REASONS.index(reason))

    def flush(self) -> None:
        """Publish all that is open; it is on the disk when this returns."""
        self._storing.flush()

    def close(self) -> None:
        """Publish, and let go of files and threads."""
        self._errands.shutdown(cancel_futures=True)
        self._storing.close()
        self._ledger.reader.close()
        self._ledger.catalogue.close()
        for mirror in self._mirrors:
            mirror.close()

    def stats(self) -> dict[str, int]:
        """Counts since it was opened, by what they count."""
        with self._ledger.lock:
            return dict(self._ledger.counts)

    # --- mirrors

    def _having(self, name: str) -> list[Mirror]:
        return [mirror for mirror in self._mirrors if not mirror.rests and name in mirror.listing.live]

    def _elsewhere(self, name: str) -> bool:
        """Whether a mirror has it, resting or not."""
        return any(name in mirror.listing.live for mirror in self._mirrors)

    def _ask(self, mirror: Mirror) -> None:
        self._fetch(mirror, mirror.poll())

    def _fetch(self, mirror: Mirror, shards: Sequence[Shard]) -> None:
        """The rows of shards that a mirror has; the lock is free while they come."""
        ledger = self._ledger
        for shard in shards:
            path = ledger.foreign / f"{shard.name}{INDEX}"
            with ledger.lock:
                if ledger.catalogue.has(shard.name):
                    continue
            try:
                if not path.exists() or path.stat().st_size != shard.index_bytes:
                    mirror.index(shard, path)
                with ledger.lock:
                    fine = ledger.catalogue.has(shard.name) or ledger.catalogue.add(path, shard)
            except (Failed, OSError) as error:
                fine = False
                ledger.once(f"cache: the index of a mirror's shard could not be had ({error})")
            if not fine:
                ledger.count("indexes not had")
                with suppress(OSError):
                    path.unlink(missing_ok=True)
                if mirror.rests:
                    return


def _token(path: Path | None) -> str:
    if path is None:
        return ""
    try:
        return read_token(path)
    except QiError as error:
        raise QiError(f"data.cache.token_file: {error}") from error
