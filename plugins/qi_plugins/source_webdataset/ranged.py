"""A file that lies elsewhere, read in few and large pieces."""

from __future__ import annotations

from collections.abc import Callable

from qi_core.blob import Placed

FIRST, LARGEST = 2**16, 2**23
"""Bytes of a piece: the first ones, and those of who reads on and on."""
NEAR = 2**20
"""Bytes that are read rather than jumped over: at 100 MB/s and 10 ms a request, a jump costs as much as a megabyte."""


class Ranged(Placed):
    """What is near to what was read before comes in pieces twice as large each time; after a jump they begin small."""

    def __init__(self, read: Callable[[int, int], bytes], size: int) -> None:
        """``read``: so many bytes from an offset on."""
        super().__init__(size)
        self._read = read
        self._start, self._piece, self._length = 0, b"", FIRST // 2

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        if self._at >= self._size:
            return 0
        end = self._start + len(self._piece)
        if not self._start <= self._at < end:
            near = 0 <= self._at - end < NEAR
            self._length = min(2 * self._length, LARGEST) if near else FIRST
            self._start, self._piece = self._at, self._read(self._at, min(self._length, self._size - self._at))
        here = self._at - self._start
        data = self._piece[here : here + len(buffer)]
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)
