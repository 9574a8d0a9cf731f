"""Finds samples: a folder, a JSONL or tar shards -> entries. Captions and pictures are not opened yet."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from attrs import define, field

from qi_core.blob import Blob
from qi_core.entries import EXTENSIONS, Entry, Limits, caption_of, category_if_any, category_of, cleaned, texts_of
from qi_core.errors import QiError
from qi_core.jsonlines import records
from qi_core.pixels import Unusable
from qi_core.skipped import Skip
from qi_plugins.source_images.shards import read_shard


@define
class Found:
    """Entries, and which files were looked at (for the message where there are no entries)."""

    entries: list[Entry] = field(factory=list)
    seen: Counter[str] = field(factory=Counter)
    """Files by extension."""


def find(
    path: str,
    caption_extension: str,
    limits: Limits,
    skip: Skip,
    categories: bool = False,
    shares: Sequence[tuple[str, float]] = (),
) -> Found:
    """Raises QiError if there is nothing at ``path``.

    ``categories``: every record must have a right one or none, and those of shards are read for them. Without, what
    is at hand is told all the same: a folder's subfolders, what a line of a JSONL or a .json with a caption says.
    ``shares``: the keys of the captions of a JSONL or in the .json of shards, each with its share.
    """
    place = Path(path).expanduser()
    if place.is_dir():
        if shares:
            raise QiError(
                f"source.path = {path!r}: a folder has one caption a picture; wanted a .jsonl or shards, or no "
                "source.caption_keys"
            )
        return _folder(place, caption_extension, skip)
    files = [str(place)] if place.is_file() else sorted(glob.glob(str(place), recursive=True))
    if not files:
        raise QiError(
            f"source.path = {path!r}: nothing is there (looked from {os.getcwd()}); "
            "wanted a folder, a .jsonl, a .tar or a pattern such as 'shards/*.tar'; correct the path"
        )
    found = Found()
    root = os.path.commonpath([os.path.dirname(file) for file in files]) or "."
    for file in files:
        extension = os.path.splitext(file)[1].lower()
        name = os.path.relpath(file, root).replace(os.sep, "/")
        found.seen[extension or "without extension"] += 1
        if extension == ".tar":
            found.entries += read_shard(file, name, caption_extension, limits, skip, categories, shares)
        elif extension in (".jsonl", ".ndjson"):
            prefix = f"{name}/" if len(files) > 1 else ""
            found.entries += _lines(Path(file), prefix, limits, skip, categories, shares)
        else:
            raise QiError(
                f"source.path = {path!r}: {file} is no folder, .jsonl or .tar; wanted one of these; "
                "a compressed tar has no random access: unpack it to .tar first"
            )
    return found


def _folder(root: Path, caption_extension: str, skip: Skip) -> Found:
    found = Found()
    for folder, under, names in _walk(root, skip):
        category, there = cleaned(under), set(names)
        for name in names:
            stem, extension = os.path.splitext(name)
            found.seen[extension.lower() or "without extension"] += 1
            if extension.lower() in EXTENSIONS:
                caption = Blob(f"{folder}/{stem}{caption_extension}") if stem + caption_extension in there else None
                entry = Entry(under + name, Blob(f"{folder}/{name}"), caption, category=category)
                found.entries.append(entry)
    found.entries.sort(key=lambda entry: entry.key)  # the file system's own order differs between machines
    return found


def _walk(root: Path, skip: Skip) -> Iterator[tuple[str, str, list[str]]]:
    """A folder and its subfolders, hidden ones left out: each with its path from the root ("" or "people/portrait/")
    and the names of its files. Links are followed, each folder once."""

    def failed(error: OSError) -> None:
        skip(str(error.filename), "folder cannot be read", error.strerror or "")

    visited: set[str] = set()
    for folder, folders, files in os.walk(root, followlinks=True, onerror=failed):
        real = os.path.realpath(folder)
        if real in visited:  # a link that leads back
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        under = os.path.relpath(folder, root).replace(os.sep, "/")
        names = [name for name in files if not name.startswith(".")]
        yield folder, "" if under == "." else f"{under}/", names


def _lines(
    path: Path, prefix: str, limits: Limits, skip: Skip, categories: bool, shares: Sequence[tuple[str, float]]
) -> Iterator[Entry]:
    """``prefix`` stands before the keys, so that they are unique over several files."""
    for number, record in records(path, prefix, limits.line, skip):
        try:
            yield _line(record, prefix, number, path.parent, categories, shares)
        except Unusable as error:
            skip(f"{prefix}line {number}", error.reason, error.detail)


def _line(
    record: dict[str, Any],
    prefix: str,
    number: int,
    folder: Path,
    categories: bool,
    shares: Sequence[tuple[str, float]],
) -> Entry:
    image = next((record[name] for name in ("image", "file_name") if name in record), None)
    if not isinstance(image, str):
        raise Unusable("line names no image", f"keys: {', '.join(record)}"[:200])
    references = record.get("references", [])
    if not isinstance(references, list) or not all(isinstance(item, str) for item in references):
        raise Unusable("references are no list of paths", repr(references)[:200])
    return Entry(
        key=f"{prefix}{image}:{number}",
        image=Blob(os.path.join(folder, image)),
        caption=caption_of(record),
        references=tuple(Blob(os.path.join(folder, item)) for item in references),
        category=category_of(record) if categories else category_if_any(record),
        texts=texts_of(record, shares),
    )
