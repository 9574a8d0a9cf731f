"""A manifest: what filters say of every sample of a data set, a line of JSON a sample, in the order of a first epoch.

The first line says what it was made by; a pass that was stopped goes on behind its last whole line.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from attrs import field, frozen

from qi_core.errors import QiError
from qi_core.filtering import Verdict, identity_of
from qi_core.keeping import judgement
from qi_core.pixels import Unusable

if TYPE_CHECKING:
    from qi_core.data import Sample

NAME, VERSION = "manifest", 1
MOST = 2**20
"""Bytes of a line."""
CAPTION = 2000
"""Characters of a caption that a row keeps."""


@frozen(kw_only=True)
class Head:
    """The first line."""

    made_by: str
    """A digest of what decides the rows: source, seed, filters."""
    bars: Mapping[str, list[float | None]]
    """[least, most] by label, in the order of the filters; None for no limit."""


@frozen(kw_only=True)
class Row:
    """A sample."""

    key: str
    values: Mapping[str, float | None] = field(factory=dict)
    reasons: Mapping[str, str] = field(factory=dict)
    """By label, of all filters that refuse it."""
    category: str = ""
    caption: str = ""
    hash: str = ""
    """Its perceptual hash, 16 hexadecimal digits; empty where none was made."""
    pixels: int = 0
    """Of the picture as it was stored."""
    bytes: int = 0
    lost: str = ""
    """Why it cannot be used at all; empty: it can."""


def row_of(sample: Sample, verdict: Verdict, hashed: str) -> str:
    """A line of a sample that could be made."""
    told = judgement(sample, identity_of(sample), verdict)
    told["caption"] = sample.prompt[:CAPTION]
    if hashed:
        told["hash"] = hashed
    _, height, width = sample.image.shape
    told["pixels"] = sample.origin.height * sample.origin.width if sample.origin else int(height * width)
    if sample.origin:
        told["bytes"] = sample.origin.bytes
    return json.dumps(told)


def lost_row(key: str, error: Unusable) -> str:
    """A line of one that could not."""
    return json.dumps({"key": key, "lost": error.reason, "detail": error.detail[:CAPTION]})


def head_of(head: Head) -> str:
    """The first line."""
    return json.dumps({"qi": NAME, "version": VERSION, "made_by": head.made_by, "bars": dict(head.bars)})


def read(path: Path) -> tuple[Head, Iterator[Row]]:
    """The head and the rows, which are read as they are asked for. Raises QiError for what is no manifest."""
    try:
        with path.open("rb") as file:
            head = _head(file.readline(MOST), path)
    except OSError as error:
        raise QiError(f"{path}: cannot be read ({error.strerror}); wanted what qi data filter wrote") from error
    return head, _rows(path)


def is_manifest(path: Path) -> bool:
    """By its first line."""
    try:
        with path.open("rb") as file:
            return f'"qi": "{NAME}"'.encode() in file.readline(200)
    except OSError:
        return False


@frozen(kw_only=True)
class Begun:
    """What a manifest holds already."""

    keys: set[str] = field(factory=set)
    refused: int = 0
    lost: int = 0


def begin(path: Path, head: Head) -> Begun:
    """Make the file, or go on with the one that is there: what comes behind its last whole line is cut off. Raises
    QiError if it was made by something else."""
    if not path.exists() or not path.stat().st_size:
        with path.open("w", encoding="utf-8") as file:
            file.write(head_of(head) + "\n")
            _flush(file)
        return Begun()
    there, rows = read(path)  # first: what is no manifest of ours must lose nothing
    if there.made_by != head.made_by:
        raise QiError(
            f"{path}: is of other data, another seed or other filters; give another --output, or remove it to begin "
            "anew"
        )
    with path.open("r+b") as old:
        old.truncate(_whole(old))
    keys, refused, lost = set[str](), 0, 0
    for row in rows:
        keys.add(row.key)
        refused += bool(row.reasons)
        lost += bool(row.lost)
    return Begun(keys=keys, refused=refused, lost=lost)


def _whole(file: IO[bytes]) -> int:
    """Bytes up to the end of the last whole line."""
    end = file.seek(0, os.SEEK_END)
    while end:
        start = max(end - 65536, 0)
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def _flush(file: IO[str]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _head(line: bytes, path: Path) -> Head:
    try:
        told = json.loads(line)
        if told["qi"] != NAME or told["version"] != VERSION:
            raise ValueError(f"version {told['version']!r}")
        return Head(made_by=str(told["made_by"]), bars={str(name): list(bar) for name, bar in told["bars"].items()})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise QiError(
            f"{path}: its first line is not that of a manifest ({error}); wanted what qi data filter wrote"
        ) from error


def _rows(path: Path) -> Iterator[Row]:
    with path.open("rb") as file:
        file.readline(MOST)
        number = 1
        while line := file.readline(MOST + 1):
            number += 1
            if len(line) > MOST:
                raise QiError(f"{path}:{number}: longer than {MOST} bytes; wanted a row of a manifest; remove the line")
            if not line.endswith(b"\n"):
                return  # being written
            try:
                yield _row(json.loads(line))
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                raise QiError(f"{path}:{number}: no row of a manifest ({error}); remove the line") from error


def _row(told: Mapping[str, Any]) -> Row:
    return Row(
        key=str(told["key"]),
        values={str(name): None if value is None else float(value) for name, value in told.get("values", {}).items()},
        reasons={str(name): str(why) for name, why in told.get("reasons", {}).items()},
        category=str(told.get("category", "")),
        caption=str(told.get("caption", "")),
        hash=str(told.get("hash", "")),
        pixels=int(told.get("pixels", 0)),
        bytes=int(told.get("bytes", 0)),
        lost=str(told.get("lost", "")),
    )
