"""Sorted rows on the disk: where each entry lies. A billion of them are searched without being read.

A *run* is one file: a header, rows sorted by id, and of each page of rows the first key. Every shard has a run beside
it, written with it; runs are merged into larger ones (``merging``), so that few have to be searched. In memory stand
only the first keys: 31 MB for a billion rows. A look-up reads one page.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from qi_core.checksum import checksum

MAGIC = b"qi-index"
VERSION = 2
BLOCK = 4096
PAGE = 256
"""Rows that are read for a look-up: 16 KiB."""
MOST_HEADER = 64 << 20
ID_BYTES = 16
ROW = np.dtype(
    [
        ("high", "<u8"),  # the id, as two big-endian numbers: sorted by them is sorted by bytes
        ("low", "<u8"),
        ("offset", "<u8"),  # in the shard's file
        ("sum", "<u8"),  # the checksum of the entry's bytes
        ("length", "<u4"),
        ("grid", "<u4", (3,)),  # (frames, rows, columns) of tokens; text: (1, 1, tokens)
        ("reason", "<u4"),  # 0, or why there are no bytes
        ("made", "<u4"),  # seconds since 1970
        ("shard", "<u4"),  # which of the run's shards; not covered by ``check``, for a merge renumbers them
        ("check", "<u4"),  # the low half of the checksum of all before ``shard``
    ]
)
CHECKED = 56
"""Bytes of a row that ``check`` covers."""
Rows = NDArray[Any]


class Damaged(Exception):
    """A file of the cache that isn't what was written."""


@frozen
class Entry:
    """Where the bytes of an id are, or why there are none."""

    id: bytes
    shard: str
    offset: int
    length: int
    sum: int
    """``qi_core.checksum`` of its bytes."""
    grid: tuple[int, int, int]
    reason: int


def halves(ids: Sequence[bytes]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Ids of 16 bytes as two arrays of numbers."""
    both = np.frombuffer(b"".join(ids), dtype=">u8").reshape(-1, 2).astype(np.uint64)
    return np.ascontiguousarray(both[:, 0]), np.ascontiguousarray(both[:, 1])


def rows_of(entries: Sequence[Entry], made: int) -> Rows:
    """Entries of one shard as sorted rows."""
    rows: Rows = np.zeros(len(entries), dtype=ROW)
    rows["high"], rows["low"] = halves([entry.id for entry in entries])
    for name in ("offset", "length", "sum", "grid", "reason"):
        rows[name] = [getattr(entry, name) for entry in entries]
    rows["made"] = made
    rows = rows[np.lexsort((rows["low"], rows["high"]))]
    rows["check"] = [check_of(row.tobytes()) for row in rows]
    return rows


def check_of(row: bytes) -> int:
    """What stands in a row that says all else that it does."""
    return checksum(row[:CHECKED]) & 0xFFFFFFFF


def _header(shards: Sequence[str], count: int) -> bytes:
    """As long for any count."""
    text = (
        f'{{"version":{VERSION},"rows":{count:20},"shards":{json.dumps(list(shards), separators=(",", ":"))}}}'.encode()
    )
    head = MAGIC + len(text).to_bytes(8, "little") + text
    return head + b"\0" * (-len(head) % BLOCK)


def write_run(file: BinaryIO, shards: Sequence[str], parts: Iterable[Rows]) -> int:
    """A whole run, on the disk when this returns. ``parts``: its rows, sorted, in pieces. Gives their number."""
    file.write(_header(shards, 0))
    firsts: list[NDArray[np.uint64]] = []
    count = 0
    for rows in parts:
        file.write(rows.tobytes())
        firsts.append(rows["high"][-count % PAGE :: PAGE].copy())
        count += len(rows)
    file.write(np.concatenate(firsts).astype("<u8").tobytes() if firsts else b"")
    file.seek(0)
    file.write(_header(shards, count))
    file.flush()
    os.fsync(file.fileno())
    return count


class Run:
    """One file of sorted rows, open."""

    def __init__(self, path: Path) -> None:
        """Reads header and first keys. Raises Damaged or OSError."""
        self.path = path
        self._descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        size = os.fstat(self._descriptor).st_size
        start = os.pread(self._descriptor, 16, 0)
        length = int.from_bytes(start[8:], "little")
        if start[:8] != MAGIC or not 0 < length <= min(size, MOST_HEADER):
            raise Damaged(f"{self.path}: no index")
        try:
            header = json.loads(os.pread(self._descriptor, length, 16))
            version, self.count, self.shards = header["version"], int(header["rows"]), tuple(header["shards"])
        except (ValueError, KeyError, TypeError) as error:
            raise Damaged(f"{self.path}: its header cannot be read") from error
        if version != VERSION:
            raise Damaged(f"{self.path}: version {version}, {VERSION} is known here")
        self._start = -(-(16 + length) // BLOCK) * BLOCK
        pages = -(-self.count // PAGE)
        end = self._start + self.count * ROW.itemsize
        if size != end + 8 * pages:
            raise Damaged(f"{self.path}: {size} bytes, {end + 8 * pages} wanted")
        self._firsts = np.frombuffer(os.pread(self._descriptor, 8 * pages, end), dtype="<u8")

    def close(self) -> None:
        """Once."""
        os.close(self._descriptor)

    def rows(self, start: int, stop: int) -> Rows:
        """Some of its rows. Raises Damaged."""
        stop = min(stop, self.count)
        wanted = max(stop - start, 0) * ROW.itemsize
        data = os.pread(self._descriptor, wanted, self._start + start * ROW.itemsize)
        if len(data) != wanted:
            raise Damaged(f"{self.path}: shorter than it was")
        return np.frombuffer(data, dtype=ROW)

    def place(self, high: int) -> int:
        """The number of the first row whose key is not below ``high``."""
        page = max(int(np.searchsorted(self._firsts, np.uint64(high))) - 1, 0)
        return page * PAGE + int(np.searchsorted(self.rows(page * PAGE, (page + 1) * PAGE)["high"], np.uint64(high)))

    def find(self, highs: NDArray[np.uint64], lows: NDArray[np.uint64]) -> list[list[Entry]]:
        """For each id its entries, in the order of shards."""
        # An id that begins a page may stand at the end of the one before too.
        pages = np.maximum(np.searchsorted(self._firsts, highs) - 1, 0)
        found: list[list[Entry]] = [[] for _ in highs]
        page, rows = -1, self.rows(0, 0)
        for i in np.argsort(pages, kind="stable"):
            high, low = highs[i], lows[i]
            if pages[i] != page:
                page, rows = int(pages[i]), self.rows(int(pages[i]) * PAGE, (int(pages[i]) + 1) * PAGE)
            at, own, base = int(np.searchsorted(rows["high"], high)), rows, page
            while True:
                if at == len(own):  # goes on in the next page
                    base, at = base + 1, 0
                    own = self.rows(base * PAGE, (base + 1) * PAGE)
                    if not len(own):
                        break
                if own["high"][at] != high:
                    break
                if own["low"][at] == low:
                    entry = self.entry(own[at])
                    if entry is not None:
                        found[i].append(entry)
                at += 1
        return found

    def entry(self, row: Any) -> Entry | None:
        """A row in words; None for one that is damaged: what it names is then encoded again."""
        if check_of(row.tobytes()) != int(row["check"]) or int(row["shard"]) >= len(self.shards):
            return None
        high, low = int(row["high"]), int(row["low"])
        return Entry(
            id=high.to_bytes(8, "big") + low.to_bytes(8, "big"),
            shard=self.shards[int(row["shard"])],
            offset=int(row["offset"]),
            length=int(row["length"]),
            sum=int(row["sum"]),
            grid=(int(row["grid"][0]), int(row["grid"][1]), int(row["grid"][2])),
            reason=int(row["reason"]),
        )
