"""Tar shards in the WebDataset layout: members of one sample stand together and share the name up to its first dot.

The headers are read once; after that a member is a stretch of the shard's file, read by seeking. Nothing is ever
unpacked, so a member's name can lead nowhere.
"""

from __future__ import annotations

import json
import os
import re
import tarfile
from collections.abc import Iterator
from itertools import groupby
from typing import Any, NamedTuple

from qi_core.blob import Blob
from qi_core.pixels import Unusable
from qi_core.skipped import Skip
from qi_plugins.source_images.entry import EXTENSIONS, Entry, Limits, caption_of, category_of

_REFERENCE = re.compile(r"ref(\d+)\.(.+)")


class _Member(NamedTuple):
    prefix: str
    suffix: str
    blob: Blob


def read_shard(
    path: str, name: str, caption_extension: str, limits: Limits, skip: Skip, categories: bool = False
) -> list[Entry]:
    """The entries of a shard, in its order. ``name`` stands before the keys, so that they are unique over shards.

    ``categories``: every .json is read for them; without, only where it holds the caption.
    """
    entries: list[Entry] = []
    uses: dict[str, int] = {}
    for prefix, members in groupby(_members(path, name, skip), key=lambda member: member.prefix):
        uses[prefix] = uses.get(prefix, 0) + 1
        key = f"{name}/{prefix}" + (f"#{uses[prefix]}" if uses[prefix] > 1 else "")
        try:
            entries.append(_entry(key, list(members), caption_extension.lstrip("."), limits, categories))
        except Unusable as error:
            skip(key, error.reason, error.detail)
    return entries


def _members(path: str, name: str, skip: Skip) -> Iterator[_Member]:
    try:
        end = os.path.getsize(path)
        with tarfile.open(path, "r:") as tar:
            while (info := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # tarfile keeps every header
                prefix, suffix = _cut(info.name)
                if not info.isreg() or not prefix or re.match(r"__[^/]*__($|/)", info.name):
                    continue
                if info.sparse is not None or info.offset_data + info.size > end:
                    skip(f"{name}/{info.name}", "broken tar shard", "sparse" if info.sparse else "cut off")
                    continue
                yield _Member(prefix, suffix.lower(), Blob(path, info.offset_data, info.size))
    except (tarfile.TarError, OSError, ValueError, MemoryError) as error:
        skip(name, "broken tar shard", f"{error}; what follows in it is not read")


def _cut(name: str) -> tuple[str, str]:
    """``a/b.c.png`` -> ``a/b``, ``c.png``; nothing for names without a dot or with nothing before it."""
    folder, slash, base = name.rpartition("/")
    stem, _, suffix = base.partition(".")
    return (folder + slash + stem, suffix) if stem and suffix else ("", "")


def _entry(key: str, members: list[_Member], caption_suffix: str, limits: Limits, categories: bool) -> Entry:
    by_suffix = {member.suffix: member.blob for member in members}
    if len(by_suffix) < len(members):
        raise Unusable("two members of one name", ", ".join(member.suffix for member in members))
    references = {
        int(match[1]): blob
        for suffix, blob in by_suffix.items()
        if (match := _REFERENCE.fullmatch(suffix)) and f".{match[2]}" in EXTENSIONS
    }
    pictures = [suffix for suffix in by_suffix if f".{suffix}" in EXTENSIONS]
    if not pictures:
        raise Unusable("no picture under this name", ", ".join(by_suffix))
    others = [s for s in by_suffix if f".{s.rpartition('.')[2]}" in EXTENSIONS and not _REFERENCE.fullmatch(s)]
    if len(others) > 1:
        raise Unusable("several pictures under one name", ", ".join(others))
    record = _record(by_suffix, limits) if categories or caption_suffix not in by_suffix else {}
    return Entry(
        key=key,
        image=by_suffix[pictures[0]],
        caption=by_suffix[caption_suffix] if caption_suffix in by_suffix else caption_of(record),
        references=tuple(references[number] for number in sorted(references)),
        category=category_of(record) if categories else "",
    )


def _record(by_suffix: dict[str, Blob], limits: Limits) -> dict[str, Any]:
    """What the .json says; nothing where there is none or it holds no object."""
    if "json" not in by_suffix:
        return {}
    try:
        record = json.loads(by_suffix["json"].read(limits.line, "caption too long"))
    except (ValueError, RecursionError) as error:
        raise Unusable("caption is no text", f".json: {error}") from error
    return record if isinstance(record, dict) else {}
