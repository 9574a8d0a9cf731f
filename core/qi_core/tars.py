"""Tar shards in the WebDataset layout: members of one sample stand together and share the name up to its first dot.

Headers alone are read; a member is then a stretch of the shard. Nothing is ever unpacked, so a member's name can lead
nowhere.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, BinaryIO, NamedTuple

from qi_core.blob import Blob
from qi_core.entries import EXTENSIONS, Entry, Limits, caption_of, category_if_any, category_of, texts_of
from qi_core.pixels import Unusable
from qi_core.skipped import Skip

_REFERENCE = re.compile(r"ref([0-9]{1,9})\.(.+)")
_METADATA = re.compile(r"__[^/]*__($|/)")


class Member(NamedTuple):
    """A file within a tar."""

    prefix: str
    """Its name up to the first dot: its sample."""
    suffix: str
    """What follows, in lower case."""
    offset: int
    size: int


def members(file: BinaryIO, end: int, name: str, skip: Skip) -> Iterator[Member]:
    """Of an open tar of ``end`` bytes, in its order. What is broken is told, and what follows it is not read.

    ``name``: what the shard is called.
    """
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            while (info := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # tarfile keeps every header
                if not info.isreg():
                    continue
                if info.sparse is not None or info.offset_data + info.size > end:
                    skip(f"{name}/{info.name}", "broken tar shard", "sparse" if info.sparse else "cut off")
                    continue
                if found := member(info.name, info.offset_data, info.size):
                    yield found
    except (tarfile.TarError, OSError, ValueError, MemoryError) as error:
        skip(name, "broken tar shard", f"{error}; what follows in it is not read")


def member(name: str, offset: int, size: int) -> Member | None:
    """``a/b.C.png`` -> ``a/b``, ``c.png``; None for metadata and for names without a dot or with nothing before it."""
    base = name.rpartition("/")[2]
    stem, _, suffix = base.partition(".")
    if not stem or not suffix or _METADATA.match(name):
        return None
    return Member(name[: len(name) - len(base) + len(stem)], suffix.lower(), offset, size)


def samples(found: Iterator[Member], name: str) -> Iterator[tuple[str, list[Member]]]:
    """Members of one sample, under a key that stands for it. ``name`` stands before the keys, so that they are unique
    over shards; a name that comes back later in the shard is another sample's."""
    uses: dict[str, int] = {}
    for prefix, own in groupby(found, key=lambda each: each.prefix):
        uses[prefix] = uses.get(prefix, 0) + 1
        yield f"{name}/{prefix}" + (f"#{uses[prefix]}" if uses[prefix] > 1 else ""), list(own)


class Parts(NamedTuple):
    """Which member of a sample is what, by suffix."""

    image: str
    caption: str
    """Empty if none holds it."""
    record: str
    """The .json, where it is to be read; empty otherwise."""
    references: tuple[str, ...]


def parts(suffixes: Sequence[str], caption_extension: str, record: bool = False) -> Parts:
    """Raises Unusable where they make no sample. ``record``: the .json is read for categories or captions; without,
    only where it holds the one caption."""
    if len(set(suffixes)) < len(suffixes):
        raise Unusable("two members of one name", ", ".join(suffixes))
    references: dict[int, str] = {}
    for suffix in suffixes:
        if (match := _REFERENCE.fullmatch(suffix)) and f".{match[2]}" in EXTENSIONS:
            if (number := int(match[1])) in references:
                raise Unusable("two references of one number", f"{references[number]}, {suffix}")
            references[number] = suffix
    pictures = [suffix for suffix in suffixes if f".{suffix}" in EXTENSIONS]
    if not pictures:
        raise Unusable("no picture under this name", ", ".join(suffixes))
    others = [s for s in suffixes if f".{s.rpartition('.')[2]}" in EXTENSIONS and not _REFERENCE.fullmatch(s)]
    if len(others) > 1:
        raise Unusable("several pictures under one name", ", ".join(others))
    caption = caption_extension.lstrip(".").lower()
    caption = caption if caption in suffixes else ""
    return Parts(
        image=pictures[0],
        caption=caption,
        record="json" if "json" in suffixes and (record or not caption) else "",
        references=tuple(references[number] for number in sorted(references)),
    )


def entry(
    key: str,
    chosen: Parts,
    stored: Mapping[str, Blob],
    limits: Limits,
    categories: bool = False,
    shares: Sequence[tuple[str, float]] = (),
) -> Entry:
    """``stored``: members by suffix. ``shares``: the keys of several captions in the .json, each with its share. Raises
    Unusable."""
    record = _record(stored[chosen.record], limits) if chosen.record else {}
    return Entry(
        key=key,
        image=stored[chosen.image],
        caption=stored[chosen.caption] if chosen.caption else caption_of(record),
        references=tuple(stored[suffix] for suffix in chosen.references),
        category=category_of(record) if categories else category_if_any(record),
        texts=texts_of(record, shares),
    )


def _record(stored: Blob, limits: Limits) -> dict[str, Any]:
    """What the .json says; nothing where it holds no object."""
    try:
        record = json.loads(stored.read(limits.line, "caption too long"))
    except (ValueError, RecursionError) as error:
        raise Unusable("caption is no text", f".json: {error}") from error
    return record if isinstance(record, dict) else {}
