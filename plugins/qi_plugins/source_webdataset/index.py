"""What lies where in a shard: found by its headers or an index beside it, and kept on disk."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b
from typing import BinaryIO, cast

import msgspec
import numpy as np
from attrs import field, frozen

from qi_core import tars
from qi_core.pixels import Unusable
from qi_core.tars import Member
from qi_plugins.source_webdataset.ranged import Ranged

FORMAT = 1
MOST_MEMBERS = 4_000_000
"""Of a shard; more is no data set but a trap."""
MOST_BESIDE = 2**28
"""Bytes of an index beside a shard."""
Told = tuple[str, str, str]
"""A key, to stand behind the shard's name, why it was skipped, and the detail."""


class _Kept(msgspec.Struct, array_like=True):
    """An index on disk. Numbers are little-endian; names are bytes, for those in a tar need not be text."""

    format: int
    shard: str
    version: str
    keys: list[bytes]
    counts: bytes
    suffixes: list[bytes]
    kinds: bytes
    offsets: bytes
    sizes: bytes
    told: list[tuple[bytes, bytes, bytes]]


@frozen(eq=False)
class Index:
    """Samples of a shard in its order, N of them with M members in all."""

    keys: list[str]
    """What is to stand behind the shard's name."""
    suffixes: list[str]
    """All that there are."""
    ends: np.ndarray = field(repr=False)
    """(N,) number of the member after the sample's last."""
    kinds: np.ndarray = field(repr=False)
    """(M,) which suffix."""
    offsets: np.ndarray = field(repr=False)
    sizes: np.ndarray = field(repr=False)
    told: list[Told]
    """What could not be read of the shard."""

    def __len__(self) -> int:
        return len(self.keys)

    def members(self, number: int) -> dict[str, tuple[int, int]]:
        """Offset and size by suffix; of two of one name, the last."""
        start = int(self.ends[number - 1]) if number else 0
        return {
            self.suffixes[int(self.kinds[at])]: (int(self.offsets[at]), int(self.sizes[at]))
            for at in range(start, int(self.ends[number]))
        }

    def of(self, number: int) -> tuple[str, ...]:
        """Its suffixes."""
        start = int(self.ends[number - 1]) if number else 0
        return tuple(self.suffixes[int(kind)] for kind in self.kinds[start : int(self.ends[number])])


def collected(samples: Iterable[tuple[str, list[Member]]], told: list[Told]) -> Index:
    """Raises Unusable if there are too many."""
    keys: list[str] = []
    table: dict[str, int] = {}
    ends: list[int] = []
    kinds: list[int] = []
    offsets: list[int] = []
    sizes: list[int] = []
    for key, members in samples:
        keys.append(key)
        for member in members:
            kinds.append(table.setdefault(member.suffix, len(table)))
            offsets.append(member.offset)
            sizes.append(member.size)
        ends.append(len(kinds))
        if len(kinds) > MOST_MEMBERS:
            raise Unusable("too many members", f"more than {MOST_MEMBERS}")
    return Index(
        keys,
        list(table),
        np.array(ends, "<u4"),
        np.array(kinds, "<u4"),
        np.array(offsets, "<u8"),
        np.array(sizes, "<u8"),
        told,
    )


def read(part: Callable[[int, int], bytes], size: int) -> Index:
    """By the headers of a shard of so many bytes. What is broken is in ``told``; what is whole before it is used.

    Raises what ``part`` raises.
    """
    told: list[Told] = []
    failed: list[Exception] = []

    def parts(start: int, length: int) -> bytes:
        try:
            return part(start, length)
        except Exception as error:
            failed.append(error)
            raise OSError("the shard cannot be read on") from error

    def skip(key: str, reason: str, detail: str = "") -> None:
        told.append((key, reason, detail))

    file = cast("BinaryIO", io.BufferedReader(Ranged(parts, size), 512))
    index = collected(tars.samples(_bounded(tars.members(file, size, "", skip)), ""), told)
    if failed:
        raise failed[0]
    return index


def beside(text: bytes, part: Callable[[int, int], bytes], size: int) -> Index:
    """By an index of DALI's wds2idx (version 1.1 or 1.2): a line "v1.2 N", then one a sample: suffix, offset and size
    of each member and, in 1.2, its name. Raises Unusable if it doesn't fit the shard."""
    try:
        head, *lines = text.decode().splitlines()
        version, count = head.split()
        if version not in ("v1.1", "v1.2") or int(count) != len(lines):
            raise Unusable("index beside it is none", f"begins with {head[:60]!r}, {len(lines)} lines")
        wide = 4 if version == "v1.2" else 3
        rows = [_row(line.split(), wide, number) for number, line in enumerate(lines)]
    except (ValueError, IndexError) as error:
        raise Unusable("index beside it is none", str(error)) from error
    members = [member for row in rows for member in row]
    if wrong := next((m for m in members if m.offset % 512 or m.offset < 512 or m.offset + m.size > size), None):
        raise Unusable("index beside it is of another shard", f"{wrong.prefix}.{wrong.suffix} at {wrong.offset}")
    for member in (members[0], members[-1]) if members else ():
        _check(member, part, named=wide == 4)
    return collected(tars.samples(_bounded(iter(members)), ""), [])


def _row(words: list[str], wide: int, number: int) -> list[Member]:
    if not words or len(words) % wide:
        raise ValueError(f"line {number + 2} has {len(words)} words")
    found: list[Member] = []
    for at in range(0, len(words), wide):
        suffix, offset, size = words[at], int(words[at + 1]), int(words[at + 2])
        named = tars.member(words[at + 3] if wide == 4 else f"{number:06d}.{suffix}", offset, size)
        if named is not None:
            found.append(named)
    return found


def _check(member: Member, part: Callable[[int, int], bytes], named: bool) -> None:
    """Whether the shard has the member's header right before its bytes."""
    import tarfile

    try:
        info = tarfile.TarInfo.frombuf(part(member.offset - 512, 512), "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        raise Unusable("index beside it is of another shard", f"no header before {member.offset}") from error
    said = tars.member(info.name, member.offset, info.size)
    long = len(info.name) >= 99  # a longer name stands elsewhere, and here is a piece of it
    if info.size != member.size or (named and not long and (said is None or said.prefix != member.prefix)):
        raise Unusable("index beside it is of another shard", f"{info.name!r} before {member.offset}")


def _bounded(members: Iterator[Member]) -> Iterator[Member]:
    for number, member in enumerate(members):
        if number >= MOST_MEMBERS:
            raise Unusable("too many members", f"more than {MOST_MEMBERS}")
        yield member


def packed(index: Index, shard: str, version: str) -> bytes:
    """For the disk, with a checksum before it."""
    counts = np.diff(index.ends, prepend=np.zeros(1, "<u4")).astype("<u4")
    body = msgspec.msgpack.encode(
        _Kept(
            FORMAT,
            shard,
            version,
            [_bytes(key) for key in index.keys],
            counts.tobytes(),
            [_bytes(suffix) for suffix in index.suffixes],
            index.kinds.astype("<u4").tobytes(),
            index.offsets.astype("<u8").tobytes(),
            index.sizes.astype("<u8").tobytes(),
            [(_bytes(key), _bytes(reason), _bytes(detail)) for key, reason, detail in index.told],
        )
    )
    return blake2b(body, digest_size=16).digest() + body


def unpacked(content: bytes, shard: str, version: str) -> Index | None:
    """None if it is of another shard, version or format, or damaged."""
    if blake2b(content[16:], digest_size=16).digest() != content[:16]:
        return None
    try:
        kept = msgspec.msgpack.decode(content[16:], type=_Kept)
    except msgspec.DecodeError:
        return None
    if (kept.format, kept.shard, kept.version) != (FORMAT, shard, version):
        return None
    return Index(
        [_text(key) for key in kept.keys],
        [_text(suffix) for suffix in kept.suffixes],
        np.frombuffer(kept.counts, "<u4").cumsum().astype("<u4"),
        np.frombuffer(kept.kinds, "<u4"),
        np.frombuffer(kept.offsets, "<u8"),
        np.frombuffer(kept.sizes, "<u8"),
        [(_text(key), _text(reason), _text(detail)) for key, reason, detail in kept.told],
    )


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _text(content: bytes) -> str:
    return content.decode("utf-8", "surrogatepass")
