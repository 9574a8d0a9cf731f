"""A look at a cache from outside: what is in it, and whether all of it is what was written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from attrs import field, frozen

from qi_core.cache.index import Damaged, Entry, Run
from qi_core.cache.ledger import Ledger
from qi_core.cache.manifest import FILE, Manifest, Shard
from qi_core.cache.shards import INDEX
from qi_core.errors import QiError

AT_ONCE = 1 << 26
"""Bytes that are read and checked together."""
ROWS = 4096


@frozen(kw_only=True)
class Part:
    """All shards of one kind and encoder."""

    kind: str
    encoder: str
    dtype: str
    shards: tuple[Shard, ...] = field(repr=False)

    @property
    def entries(self) -> int:
        """Pictures, captions or names."""
        return sum(shard.entries for shard in self.shards)

    @property
    def bytes(self) -> int:
        """On the disk, indexes included."""
        return sum(shard.size for shard in self.shards)

    @property
    def buckets(self) -> int:
        """Different grids."""
        return len({shard.form.bucket for shard in self.shards})


def contents(folder: Path, tell: Callable[[str], None]) -> list[Part]:
    """What is in a cache, largest first. Nothing is changed. Raises QiError for a folder that is none."""
    if not (folder / FILE).is_file():
        raise QiError(f"{folder}: no {FILE} there; the folder of a cache (data.cache.path) was wanted")
    manifest = Manifest(folder, tell)
    manifest.refresh()
    parts: dict[tuple[str, str, str], list[Shard]] = {}
    for shard in manifest.live.values():
        parts.setdefault((shard.form.kind, shard.form.encoder, shard.form.dtype), []).append(shard)
    found = [Part(kind=k, encoder=e, dtype=d, shards=tuple(own)) for (k, e, d), own in parts.items()]
    return sorted(found, key=lambda part: -part.bytes)


def verify(folder: Path, tell: Callable[[str], None]) -> dict[str, int]:
    """Read every byte of every shard. What isn't what was written is set aside and told, as a run would; counts."""
    contents(folder, tell)
    ledger = Ledger(folder, tell)
    for shard in list(ledger.manifest.live.values()):
        try:
            whole = all(_sound(ledger, shard))
        except FileNotFoundError as error:
            ledger.set_aside(shard.name, "missing", str(error))
        except (Damaged, OSError, EOFError) as error:
            ledger.set_aside(shard.name, "spoiled", str(error))
        else:
            if not whole:
                ledger.set_aside(shard.name, "spoiled", "checksums are wrong")
            ledger.count("shards whole", int(whole))
    ledger.reader.close()
    ledger.catalogue.close()
    return dict(ledger.counts)


def _sound(ledger: Ledger, shard: Shard) -> Iterator[bool]:
    """Whether stretches of a shard have their checksums, and its rows theirs."""
    run = Run(ledger.folder / f"{shard.name}{INDEX}")
    try:
        yield run.count == shard.entries and run.shards == (shard.name,)
        for start in range(0, run.count, ROWS):
            rows = [run.entry(row) for row in run.rows(start, start + ROWS)]
            yield None not in rows
            batch: list[Entry] = []
            for entry in sorted((row for row in rows if row is not None), key=lambda entry: entry.offset):
                if batch and sum(one.length for one in batch) + entry.length > AT_ONCE:
                    yield _checked(ledger, shard, batch)
                    batch = []
                batch.append(entry)
            yield _checked(ledger, shard, batch)
    finally:
        run.close()


def _checked(ledger: Ledger, shard: Shard, batch: list[Entry]) -> bool:
    spans = [(entry, memoryview(bytearray(entry.length))) for entry in batch if not entry.reason]
    return all(ledger.reader.read(shard, spans))
