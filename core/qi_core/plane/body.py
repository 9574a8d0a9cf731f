"""A packed portion as an open file without a name, which one process writes and another sends.

In memory where the system has memfd (Linux), else in a temporary file that is unlinked already: when the last process
that holds it ends, however it ends, it is gone. Shared memory with a name would stay behind killed workers.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import threading
from collections.abc import Callable, Iterable

from attrs import frozen

from qi_core.checksum import Running, hex_of, pieces

SPARE = 4
"""Files that are kept to be written again. A third of the time of writing into a new one: its memory is there."""


@frozen(kw_only=True, eq=False)
class Body:
    """Who holds it closes it, once."""

    view: memoryview
    """Its bytes, mapped: nothing is copied. Not looked into after ``close``."""
    sum: str
    """Its checksum, sixteen hexadecimal digits."""
    close: Callable[[], None]
    """Lets its file be written again."""

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.view)


@frozen(kw_only=True)
class Written:
    """A file that was written, and stays as it is until ``Spool.free``."""

    number: int
    fd: int
    size: int
    sum: int


class Spool:
    """Writes bodies, into files that were freed where there are some. Any thread may ask."""

    def __init__(self) -> None:
        self._files: dict[int, int] = {}
        self._spare: list[int] = []
        self._gone: list[int] = []
        self._maps = Maps()
        self._count, self._room = 0, SPARE
        self._lock = threading.Lock()

    def write(self, buffers: Iterable[memoryview]) -> Written:
        """Raises OSError where there is no room."""
        with self._lock:
            if self._spare:
                number = self._spare.pop()
                fd = self._files[number]
                os.lseek(fd, 0, os.SEEK_SET)
            else:
                number, fd = self._count, _nameless()
                self._count, self._files[number] = number + 1, fd
        try:
            size, total = _write(fd, buffers)
            if os.fstat(fd).st_size > 2 * size:  # a small one must not keep a large one's memory
                os.ftruncate(fd, size)
        except BaseException:
            with self._lock:
                self._close(number)
            raise
        return Written(number=number, fd=fd, size=size, sum=total)

    def free(self, number: int) -> None:
        """Nobody reads it any more."""
        with self._lock:
            if len(self._spare) < self._room:
                self._spare.append(number)
            else:
                self._close(number)

    def gone(self) -> tuple[int, ...]:
        """Files that were closed since the last call."""
        with self._lock:
            gone, self._gone = tuple(self._gone), []
        return gone

    def body(self, buffers: Iterable[memoryview]) -> Body:
        """For whoever sends it from this process."""
        made = self.write(buffers)
        with self._lock:
            self._maps.drop(tuple(self._gone))
            self._gone.clear()
            view = self._maps.view(made.number, made.fd, made.size)
        return Body(view=view, sum=hex_of(made.sum), close=lambda: self.free(made.number))

    def close(self) -> None:
        """Keep no more files; those that are read are closed when they are freed."""
        with self._lock:
            self._room = 0
            while self._spare:
                self._close(self._spare.pop())

    def _close(self, number: int) -> None:
        os.close(self._files.pop(number))
        self._gone.append(number)


class Maps:
    """Files of a spool as memory, each mapped once: that costs as much as half a copy."""

    def __init__(self) -> None:
        self._known: dict[int, memoryview] = {}

    def view(self, number: int, fd: int, size: int) -> memoryview:
        """The first ``size`` bytes of a file."""
        if len(self._known.get(number, b"")) < size:
            flags = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)
            room = os.fstat(fd).st_size
            self._known[number] = memoryview(mmap.mmap(fd, room, flags=flags, prot=mmap.PROT_READ))
        return self._known[number][:size]

    def drop(self, numbers: Iterable[int]) -> None:
        """They are closed, and never written again."""
        for number in numbers:
            self._known.pop(number, None)


def _write(fd: int, buffers: Iterable[memoryview]) -> tuple[int, int]:
    size, total = 0, Running()
    for buffer in buffers:
        for piece in pieces(buffer):
            total.add(piece)
            size += len(piece)
            while piece:  # the system may take less than it is given
                piece = piece[os.write(fd, piece) :]
    return size, total.value


def _nameless() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("qi-portion", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile(prefix="qi-portion-") as file:
        return os.dup(file.fileno())
