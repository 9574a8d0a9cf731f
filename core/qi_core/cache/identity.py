"""What an encoder is, told by its files' content: the same on every machine, wherever they lie and whenever they came.

Sixteen gigabytes are not read whole for it. Of a tensor all is read if it is small (norms and biases), else a block of
each megabyte: weights that were trained further, or merged, differ everywhere. Other files are read whole, as far as
they are no larger than a tokenizer's.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from pathlib import Path

SMALL = 1 << 16
BLOCK, STRIDE = 1 << 12, 1 << 20
LARGEST = 64 << 20
"""Bytes of a file that is read whole."""
MOST_HEADER = 128 << 20
ENDINGS = (".safetensors", ".json", ".jinja", ".txt", ".model")
"""What may decide an encoder's values."""


def identity(settings: Mapping[str, object], *told: str) -> bytes:
    """For ``cached``: an encoder's settings, a path in them standing for what lies there, and whatever else decides its
    values (dtype, kind of device). Raises OSError."""
    parts = {key: fingerprint(path) if (path := _path(value)) else repr(value) for key, value in settings.items()}
    return json.dumps([parts, *told], sort_keys=True).encode()


def fingerprint(path: Path) -> str:
    """Of a file, or of a folder's files, by their names in it. Raises OSError."""
    hashed = blake2b(digest_size=20)
    files = sorted(file for file in path.rglob("*") if file.suffix in ENDINGS) if path.is_dir() else [path]
    for file in files:
        size = file.stat().st_size
        hashed.update(f"{file.relative_to(path) if path.is_dir() else file.suffix} {size}\n".encode())
        descriptor = os.open(file, os.O_RDONLY)
        try:
            for start, length in _stretches(descriptor, size, file.suffix == ".safetensors"):
                hashed.update(os.pread(descriptor, length, start))
        finally:
            os.close(descriptor)
    return hashed.hexdigest()


def _stretches(descriptor: int, size: int, tensors: bool) -> Iterator[tuple[int, int]]:
    """(start, length) of what is read of a file."""
    if size <= SMALL or (size <= LARGEST and not tensors):
        yield 0, size
        return
    whole = [(0, size)]
    if tensors:
        length = int.from_bytes(os.pread(descriptor, 8, 0), "little")
        if length <= min(size, MOST_HEADER):
            yield 0, 8 + length
            whole = sorted(_tensors(os.pread(descriptor, length, 8), 8 + length))
    for start, end in whole:
        if end - start <= SMALL:
            yield start, end - start
        else:
            yield from ((at, min(BLOCK, end - at)) for at in range(start, end, STRIDE))


def _tensors(header: bytes, base: int) -> list[tuple[int, int]]:
    """(start, end) of each in the file; of a header that can't be read none, for then the file can't be used anyway."""
    try:
        about = json.loads(header)
        offsets = [one["data_offsets"] for name, one in about.items() if name != "__metadata__"]
        return [(base + int(start), base + int(end)) for start, end in offsets]
    except (ValueError, KeyError, TypeError, AttributeError):
        return []


def _path(value: object) -> Path | None:
    """The file or folder that a setting names, if it names one."""
    if not isinstance(value, str | Path) or not str(value):
        return None
    path = Path(value).expanduser()
    return path if path.exists() else None
