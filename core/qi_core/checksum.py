"""Checksums against accidents: XXH3 of 64 bits. They find what a disk, a cable or a cut has changed, not what somebody
has forged.

XXH3 (Y. Collet, https://xxhash.com) and not CRC-32C: twice the bits, and over bytes that the processor still has in its
cache half of the time, by the same library on every kind of processor.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

from xxhash import xxh3_64, xxh3_64_intdigest

PIECE = 1 << 20
"""Bytes that are moved and then summed at once, so that they need not come from memory again: they fit into the
processor's caches, and what a call costs is little beside them."""

Data: TypeAlias = bytes | bytearray | memoryview


def checksum(data: Data) -> int:
    """64 bits."""
    return xxh3_64_intdigest(data)


def hex_of(number: int) -> str:
    """Sixteen digits."""
    return f"{number:016x}"


class Running:
    """The checksum of what comes in pieces."""

    def __init__(self) -> None:
        self._state = xxh3_64()
        self.add = self._state.update

    @property
    def value(self) -> int:
        """Of all that was added."""
        return self._state.intdigest()


def pieces(data: memoryview) -> Iterator[memoryview]:
    """All of it, ``PIECE`` bytes at a time."""
    for start in range(0, len(data), PIECE):
        yield data[start : start + PIECE]
