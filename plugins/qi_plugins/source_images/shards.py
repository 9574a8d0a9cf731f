"""Tar shards on disk: a member is a stretch of the shard's file, read by seeking."""

from __future__ import annotations

import os
from collections.abc import Sequence

from qi_core import tars
from qi_core.blob import Blob
from qi_core.entries import Entry, Limits
from qi_core.pixels import Unusable
from qi_core.skipped import Skip


def read_shard(
    path: str,
    name: str,
    caption_extension: str,
    limits: Limits,
    skip: Skip,
    categories: bool = False,
    shares: Sequence[tuple[str, float]] = (),
) -> list[Entry]:
    """The entries of a shard, in its order. ``name`` stands before the keys, so that they are unique over shards.

    ``categories``, ``shares``: every .json is read for them; without, only where it holds the caption.
    """
    entries: list[Entry] = []
    try:
        with open(path, "rb") as file:
            found = tars.members(file, os.path.getsize(path), name, skip)
            for key, members in tars.samples(found, name):
                stored = {member.suffix: Blob(path, member.offset, member.size) for member in members}
                try:
                    chosen = tars.parts(
                        [member.suffix for member in members], caption_extension, categories or bool(shares)
                    )
                    entries.append(tars.entry(key, chosen, stored, limits, categories, shares))
                except Unusable as error:
                    skip(key, error.reason, error.detail)
    except OSError as error:
        skip(name, "broken tar shard", f"{error}; what follows in it is not read")
    return entries
