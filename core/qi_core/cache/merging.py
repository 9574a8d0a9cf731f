"""Runs made into larger ones, so that a cache of any number of shards is searched in few files.

Eight runs of about one size become one of the next size (as in log-structured merge trees: O'Neil et al. 1996), so that
a row is written again once for each factor of eight. Merged runs are copies: the shards' own stay, and a merged one
that is lost or damaged is made again.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

import numpy as np

from qi_core.cache.index import ROW, Damaged, Rows, Run, write_run

FANOUT = 8
SMALLEST = 4096
"""Rows up to which runs are of one size."""
AT_ONCE = 1 << 17
"""Rows in memory while runs are merged: 8 MiB, a few times over."""


def size_class(count: int) -> int:
    """Runs of one class are merged with each other."""
    size = 0
    while count > SMALLEST:
        count //= FANOUT
        size += 1
    return size


def due(runs: Sequence[Run]) -> list[Run]:
    """Runs to merge now; empty if there are few enough."""
    classes: dict[int, list[Run]] = {}
    for run in runs:
        classes.setdefault(size_class(run.count), []).append(run)
    for size in sorted(classes):
        if len(classes[size]) >= FANOUT:
            return classes[size]
    return []


def merge(folder: Path, runs: Sequence[Run], wanted: Callable[[str], bool]) -> Path | None:
    """A run with the rows of all, written beside and renamed; None if another process is merging just now.

    ``wanted``: whether a shard's rows are still of use. Raises OSError, or Damaged.
    """
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        shards = [shard for run in runs for shard in run.shards if wanted(shard)]
        known = set(shards)
        path = folder / f"{blake2b(''.join(sorted(shards)).encode(), digest_size=20).hexdigest()}.index"
        beside = path.with_name(f".{path.name}.{os.getpid()}.part")
        for left in folder.glob(".*.part"):  # the lock is ours: whoever wrote it is gone
            left.unlink(missing_ok=True)
        try:
            with beside.open("wb") as file:
                write_run(file, shards, _merged(runs, shards))
            beside.rename(path)
        except BaseException:
            with suppress(OSError):
                beside.unlink(missing_ok=True)
            raise
        for run in opened(folder):  # copies that this one replaces, whoever made them
            if run.path != path and all(shard in known or not wanted(shard) for shard in run.shards):
                run.path.unlink(missing_ok=True)
            run.close()
    return path


def _merged(runs: Sequence[Run], shards: Sequence[str]) -> Iterator[Rows]:
    """Rows of these shards. Ids are hashes, spread evenly: equal stretches of keys hold about equally many rows."""
    gone = len(shards)
    number = {shard: i for i, shard in enumerate(shards)}
    renumbered = [np.array([number.get(shard, gone) for shard in run.shards], dtype=np.uint32) for run in runs]
    parts = max(1, -(-sum(run.count for run in runs) // AT_ONCE))
    starts = [0] * len(runs)
    for part in range(1, parts + 1):
        pieces: list[Rows] = []
        for i, run in enumerate(runs):
            stop = run.count if part == parts else run.place(part * (1 << 64) // parts)
            rows = run.rows(starts[i], stop).copy()
            starts[i] = stop
            rows = rows[rows["shard"] < len(run.shards)]  # a flipped bit must not end the merge
            rows["shard"] = renumbered[i][rows["shard"]]
            pieces.append(rows[rows["shard"] < gone])
        both = np.concatenate(pieces) if pieces else np.zeros(0, dtype=ROW)
        yield both[np.lexsort((both["low"], both["high"]))]


def opened(folder: Path) -> list[Run]:
    """Merged runs, largest first; broken ones are deleted, for they can be made again."""
    found: list[Run] = []
    for path in folder.glob("*.index") if folder.is_dir() else ():
        try:
            found.append(Run(path))
        except Damaged:
            path.unlink(missing_ok=True)
        except FileNotFoundError:  # merged into another just now
            continue
    return sorted(found, key=lambda run: -run.count)
