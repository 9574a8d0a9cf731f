"""What the index holds: where a sample's bytes are. Nothing here is decoded."""

from __future__ import annotations

import io
import os
import stat
from typing import Any, BinaryIO, Protocol, cast

from attrs import frozen

from qi_core.pixels import Unusable

EXTENSIONS = (
    ".png", ".jpg", ".jpeg", ".jfif", ".webp", ".avif", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm",
)  # fmt: skip
"""What counts as a picture by its name. What it really is, its first bytes tell."""


class Skip(Protocol):
    """Whoever is told what is skipped."""

    def __call__(self, key: str, reason: str, detail: str = "") -> None: ...


@frozen
class Limits:
    """What bad input may cost at most."""

    pixels: int
    file: int
    caption: int
    line: int


@frozen
class Blob:
    """A file, or a stretch of one (a member of a tar)."""

    path: str
    offset: int = 0
    size: int = -1
    """Bytes; -1: the whole file."""

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
        if size > most:
            file.close()
            raise Unusable(too_large, f"{size} bytes, {most} allowed")
        if self.size < 0:
            return file, size
        return cast(BinaryIO, io.BufferedReader(_Stretch(file, self.offset, size))), size

    def read(self, most: int, too_large: str = "file too large") -> bytes:
        """All bytes."""
        file, _ = self.open(most, too_large)
        with file:
            try:
                return file.read()
            except OSError as error:
                raise Unusable("cannot be read", _why(error)) from error


@frozen
class Entry:
    """A sample, by where its parts are."""

    key: str
    image: Blob
    caption: str | Blob | None
    references: tuple[Blob, ...] = ()


def caption_of(record: dict[str, Any]) -> str | None:
    """The caption of a JSON record. Raises Unusable if it is no string."""
    caption = next((record[name] for name in ("caption", "text", "prompt") if record.get(name) is not None), None)
    if caption is not None and not isinstance(caption, str):
        raise Unusable("caption is no text", repr(caption)[:200])
    return caption


class _Stretch(io.RawIOBase):
    """A stretch of a file as a file of its own, so that a tar's member is read without a copy."""

    def __init__(self, file: BinaryIO, offset: int, size: int) -> None:
        self._file, self._offset, self._size, self._at = file, offset, size, 0

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
