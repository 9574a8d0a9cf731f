"""A file of a data set, or a stretch of one. Every file is taken to be hostile: a pipe, a device, of any size."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Generator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, BinaryIO, cast

from attrs import frozen

from qi_core.pixels import Unusable, read_header, size_of
from qi_core.sizes import Size


@frozen
class Blob:
    """A file, or a stretch of one (a member of a tar)."""

    path: str
    offset: int = 0
    size: int = -1
    """Bytes; -1: the whole file."""
    stamp: int = -1
    """Of the file when it was found (see ``stamp_of``): once it has another, it is unusable. -1: not asked."""

    def stamped(self) -> tuple[Blob, int]:
        """As it lies there now, and its size in bytes. Nothing is opened. Raises Unusable if it isn't there, or is no
        file."""
        try:
            status = os.stat(self.path)
        except (OSError, ValueError) as error:
            raise Unusable("cannot be read", _why(error)) from error
        if not stat.S_ISREG(status.st_mode):
            raise Unusable("cannot be read", "not a regular file")
        size = status.st_size if self.size < 0 else self.size
        return Blob(self.path, self.offset, self.size, stamp_of(status)), size

    def open(self, most: int, too_large: str = "file too large") -> tuple[BinaryIO, int]:
        """A seekable file and its size in bytes. Raises Unusable if it can't be read or is larger than ``most``."""
        try:
            file = open(self.path, "rb", opener=_no_waiting)  # noqa: SIM115 - the caller closes it
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name
            raise Unusable("cannot be read", _why(error)) from error
        status = os.fstat(file.fileno())
        size = status.st_size if self.size < 0 else self.size
        if not stat.S_ISREG(status.st_mode):
            file.close()
            raise Unusable("cannot be read", "not a regular file")
        if self.stamp not in (-1, stamp_of(status)):
            file.close()
            raise Unusable("changed since it was found", "another size or time of the last change")
        if size > most:
            file.close()
            raise Unusable(too_large, f"{size} bytes, {most} allowed")
        if self.size < 0:
            return file, size
        return cast(BinaryIO, io.BufferedReader(_Stretch(file, self.offset, size))), size  # pyright: ignore[reportArgumentType]

    def read(self, most: int, too_large: str = "file too large") -> bytes:
        """All bytes."""
        file, _ = self.open(most, too_large)
        with file:
            try:
                content = file.read(most + 1)  # and not all: it may be growing
            except OSError as error:
                raise Unusable("cannot be read", _why(error)) from error
            self.require_unchanged()
        if len(content) > most:
            raise Unusable(too_large, f"more than {most} bytes")
        return content

    def require_unchanged(self) -> None:
        """Once it was read: raises Unusable if somebody has written to the file meanwhile, so that what was read may be
        half of the one and half of the other."""
        if self.stamp != -1 and self.stamped()[0].stamp != self.stamp:
            raise Unusable("changed since it was found", "while it was being read")


def stamp_of(status: os.stat_result) -> int:
    """Of size and time of the last change in one number, since sets of millions hold many: who writes to a file
    changes it."""
    return (status.st_mtime_ns * 0x9E3779B1 + status.st_size) % 2**60


@lru_cache(maxsize=2**16)
def header(blob: Blob, most: int, pixels: int) -> tuple[Size, int]:
    """Of a stamped picture: its size in pixels, as it will be seen, and in bytes. Raises Unusable. A change of the data
    builds a source anew, which need not read again what lies there as it did.

    ``most``, ``pixels``: see ``opened``.
    """
    with opened(blob, most, pixels) as (image, size):
        return size_of(image), size


@contextmanager
def opened(blob: Blob, most: int, pixels: int) -> Generator[tuple[Any, int]]:
    """The picture with its header read and judged, and its size in bytes. Raises Unusable.

    ``most``: bytes. ``pixels``: that it may claim to have.
    """
    file, size = blob.open(most)
    with file:
        try:
            yield read_header(file, pixels), size
        except Unusable:
            blob.require_unchanged()  # what can't be decoded may be half of one picture and half of another
            raise
        blob.require_unchanged()


class Placed(io.RawIOBase):
    """A file of known size that can be read from any place; a subclass reads."""

    def __init__(self, size: int) -> None:
        self._size, self._at = size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if start + offset < 0:
            raise OSError("seek before the start")
        self._at = start + offset
        return self._at


class _Stretch(Placed):
    """A stretch of a file as a file of its own, so that a tar's member is read without a copy."""

    def __init__(self, file: BinaryIO, offset: int, size: int) -> None:
        super().__init__(size)
        self._file, self._offset = file, offset

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        wanted = min(len(buffer), max(self._size - self._at, 0))
        self._file.seek(self._offset + self._at)
        data = self._file.read(wanted)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


def _no_waiting(path: str, flags: int) -> int:
    # A named pipe would otherwise hold the process until somebody writes to it.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
