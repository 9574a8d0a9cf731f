"""Shards: safetensors files of the values of one kind, written as they come and read entry by entry.

The header has 4096 bytes whatever it says, so that it can be written last, when the shape is known: a shard is never
held in memory, and what it holds begins at a page of the disk.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path

from qi_core.cache.index import BLOCK, PAGE, ROW, Entry, rows_of, write_run
from qi_core.cache.manifest import Form, Shard
from qi_core.checksum import Running, checksum, pieces
from qi_core.files import sync_folder

DATA, INDEX, PART = ".safetensors", ".index", ".part"
OPEN_FILES = 256
"""Shards that are held open for reading."""
VECTORS = 512
"""Buffers of one call of the system; Linux takes 1024."""
TOGETHER = 1 << 18
"""Bytes up to which neighbours are read in one call."""
LONGEST = (1 << 32) - 1
"""Bytes of an entry."""
ITEMSIZES = {"BF16": 2, "F32": 4, "U8": 1}

Span = tuple[Entry, memoryview]
"""An entry, and where its bytes go: as long as it says."""


class Writer:
    """One shard, growing in a file that belongs to this process: the lock on it goes with the process, and a file
    without a lock may be swept."""

    def __init__(self, folder: Path, form: Form) -> None:
        """``folder``: for shards in the making. Raises OSError."""
        self.form = form
        self.begun = time.monotonic()
        self.entries: dict[bytes, Entry] = {}
        self.bytes = BLOCK
        self.name = f"{os.getpid()}-{threading.get_ident():x}-{time.monotonic_ns():x}"
        """Until it is published under another."""
        self.path = folder / f"{self.name}{PART}"
        self._file = self.path.open("xb+", buffering=0)
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    @property
    def size(self) -> int:
        """Bytes on the disk, once it is published."""
        count = len(self.entries)
        return self.bytes + BLOCK + count * ROW.itemsize + -(-count // PAGE) * 8

    def add(self, id: bytes, grid: tuple[int, int, int], data: memoryview, reason: int = 0) -> Entry:
        """Raises OSError if the disk is full: the shard is of no use then."""
        if len(data) > LONGEST:
            raise OSError(27, f"an entry of {len(data)} bytes")
        total, at = Running(), self.bytes
        for piece in pieces(data):
            total.add(piece)
            self._write(piece, at)
            at += len(piece)
        entry = Entry(id, self.name, self.bytes, len(data), total.value, grid, reason)
        self.bytes = at
        self.entries[id] = entry
        return entry

    def _write(self, data: memoryview | bytes, at: int) -> None:
        view = memoryview(data)
        while view:
            done = os.pwrite(self._file.fileno(), view, at)
            view, at = view[done:], at + done

    def read(self, spans: Sequence[Span]) -> list[bool]:
        """As ``Reader.read``. Raises ValueError once it is closed."""
        return _read(self._file.fileno(), spans)

    def finish(self) -> tuple[Shard, Path]:
        """Header and index written, all on the disk; still under its own names, the index at the path that is given
        back. Raises OSError.

        The name that the shard gets is the hash of its header and rows, which hold the hash of each entry's content
        and the checksum of its bytes.
        """
        header = self._header()
        self._write(header, 0)
        os.fsync(self._file.fileno())
        rows = rows_of(list(self.entries.values()), int(time.time()))
        name = blake2b(header + rows.tobytes(), digest_size=20).hexdigest()
        index = self.path.with_suffix(INDEX + PART)
        with index.open("xb") as file:
            write_run(file, [name], [rows])
        size = index.stat().st_size
        return Shard(name=name, form=self.form, entries=len(rows), bytes=self.bytes, index_bytes=size), index

    def _header(self) -> bytes:
        form, itemsize = self.form, ITEMSIZES[self.form.dtype]
        values = (self.bytes - BLOCK) // itemsize
        filled = sum(entry.length > 0 for entry in self.entries.values())
        frames, rows, columns = form.bucket
        shape = [filled, frames * rows * columns, form.width] if rows else [values // form.width, form.width]
        about = {"kind": form.kind, "encoder": form.encoder, "bucket": "x".join(map(str, form.bucket)), "format": "pt"}
        tensor = {"dtype": form.dtype, "shape": shape, "data_offsets": [0, values * itemsize]}
        text = json.dumps({"__metadata__": about, form.kind: tensor}, separators=(",", ":")).encode()
        return (BLOCK - 8).to_bytes(8, "little") + text.ljust(BLOCK - 8)

    def close(self) -> None:
        """Published, or to be swept: the lock is let go."""
        self._file.close()

    def abort(self) -> None:
        """Nothing of it stays."""
        for path in (self.path, self.path.with_suffix(INDEX + PART)):
            with suppress(OSError):
                path.unlink(missing_ok=True)
        self.close()


def is_alive(path: Path) -> bool:
    """Whether the process that writes a shard there still does."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def place(shard: Shard, data: Path, index: Path, folder: Path) -> None:
    """Both files under their published names, lasting. With the manifest's lock held; its line comes next."""
    data.rename(folder / f"{shard.name}{DATA}")
    index.rename(folder / f"{shard.name}{INDEX}")
    sync_folder(folder)


class Reader:
    """Reads of many entries, some files of many held open."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._open: OrderedDict[str, tuple[int, int]] = OrderedDict()  # name -> descriptor, readers at work
        self._dropped: set[str] = set()

    def read(self, shard: Shard, spans: Sequence[Span]) -> list[bool]:
        """Which of them have the checksum that was written; the others must not be used. Raises OSError, EOFError if
        the file isn't there or shorter than it was."""
        with self._using(shard) as descriptor:
            return _read(descriptor, spans)

    @contextmanager
    def _using(self, shard: Shard) -> Generator[int]:
        with self._lock:
            if shard.name in self._open:
                descriptor, users = self._open[shard.name]
            else:
                descriptor = _opened(self._folder / f"{shard.name}{DATA}")
                users = 0
                if (size := os.fstat(descriptor).st_size) != shard.bytes:
                    os.close(descriptor)
                    raise EOFError(f"{size} bytes where {shard.bytes} were written")
                self._dropped.discard(shard.name)
            self._open[shard.name] = descriptor, users + 1
            self._open.move_to_end(shard.name)
        try:
            yield descriptor
        finally:
            with self._lock:
                self._open[shard.name] = descriptor, self._open[shard.name][1] - 1
                self._close_some()

    def drop(self, name: str) -> None:
        """It is gone: its file is closed as soon as nobody reads it."""
        with self._lock:
            self._dropped.add(name)
            self._close_some()

    def _close_some(self) -> None:
        idle = [name for name, (_, users) in self._open.items() if not users]
        leave = {name for name in idle if name in self._dropped}
        leave |= set(idle[: max(0, len(self._open) - OPEN_FILES)])
        for name in leave:
            os.close(self._open.pop(name)[0])
            self._dropped.discard(name)

    def close(self) -> None:
        """Close all files."""
        with self._lock:
            self._dropped |= self._open.keys()
            self._close_some()


def _opened(path: Path) -> int:
    """For reading entries here and there: the system reads what is asked for and guesses nothing."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
    return descriptor


def _read(descriptor: int, spans: Sequence[Span]) -> list[bool]:
    """Which entries have the right checksum. Raises EOFError at the end of the file.

    Small neighbours are read together, and no entry in pieces: from the disk, that takes the system a third more.
    Checksums are taken right after, while the bytes are in the processor's cache.
    """
    good = [False] * len(spans)
    ordered = sorted(range(len(spans)), key=lambda i: spans[i][0].offset)
    at = 0
    while at < len(ordered):
        first, view = spans[ordered[at]]
        start, end = first.offset, first.offset + first.length
        group, views = [ordered[at]], [view]
        at += 1
        while at < len(ordered) and len(group) < VECTORS:
            entry, view = spans[ordered[at]]
            if entry.offset != end or end + entry.length > start + TOGETHER:
                break
            group.append(ordered[at])
            views.append(view)
            end += entry.length
            at += 1
        if os.preadv(descriptor, views, start) != end - start:
            _fill(descriptor, views, start)
        for i, view in zip(group, views, strict=True):
            good[i] = checksum(view) == spans[i][0].sum
    return good


def _fill(descriptor: int, views: list[memoryview], start: int) -> None:
    """By as many calls as it takes: the system may give less than it is asked for."""
    views = [view for view in views if view]
    while views:
        got = os.preadv(descriptor, views, start)
        if not got:
            raise EOFError(f"nothing at byte {start}")
        start += got
        while views and got >= len(views[0]):
            got -= len(views.pop(0))
        if got:
            views[0] = views[0][got:]
