"""Files that are flushed to the disk and counted while they are written.

Tensors are written in the safetensors format: eight bytes with the length of a JSON header, the header, the raw
values. It is written here and not by the safetensors package because one pass then does everything: one tensor at a
time leaves the GPU, its bytes are summed as they go by, and a full disk is an OSError that says so.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from attrs import frozen
from safetensors import SafetensorError, safe_open

from qi_core import QiError

if TYPE_CHECKING:
    from torch import Tensor

CHUNK = 1 << 24

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


@frozen
class Stamp:
    """What a whole file looks like."""

    bytes: int
    crc32: str
    """Eight hexadecimal digits."""


def write(path: Path, chunks: Iterator[bytes | memoryview]) -> Stamp:
    """A new file, on the disk when this returns."""
    size, crc = 0, 0
    with open(path, "xb", buffering=0) as file:
        for chunk in chunks:
            view = memoryview(chunk)
            crc = zlib.crc32(view, crc)
            size += len(view)
            while view:  # the system may take less than it is given
                view = view[file.write(view) or 0 :]
        os.fsync(file.fileno())
    return Stamp(size, f"{crc:08x}")


def stamp(path: Path) -> Stamp:
    """What a file on the disk looks like."""
    size, crc = 0, 0
    with open(path, "rb", buffering=0) as file:
        while chunk := file.read(CHUNK):
            crc = zlib.crc32(chunk, crc)
            size += len(chunk)
    return Stamp(size, f"{crc:08x}")


def sync_folder(path: Path) -> None:
    """Make the names in a folder last: a rename is safe only when its folder is on the disk too."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def shards(group: str, tensors: Mapping[str, Tensor], limit: int) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """File names and the tensors that go into each, in their order, at most ``limit`` bytes of values a file."""
    parts: list[dict[str, Tensor]] = [{}]
    used = 0
    for name, tensor in tensors.items():
        if parts[-1] and used + tensor.nbytes > limit:
            parts.append({})
            used = 0
        parts[-1][name] = tensor
        used += tensor.nbytes
    if len(parts) == 1:
        yield f"{group}.safetensors", parts[0]
        return
    for number, part in enumerate(parts, 1):
        yield f"{group}-{number:05d}-of-{len(parts):05d}.safetensors", part


def safetensors(tensors: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    """The bytes of a safetensors file; the same tensors give the same bytes, whatever their order."""
    # Widest values first, then by name: every tensor then starts at a multiple of its element's size.
    ordered = sorted(tensors, key=lambda name: (-tensors[name].itemsize, name))
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name in ordered:
        tensor = tensors[name]
        if tensor.dtype not in DTYPES:
            raise QiError(f"checkpoint: {name!r} is of {tensor.dtype}, which safetensors has no name for; cast it")
        end = start + tensor.nbytes
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for name in ordered:
        values = tensors[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
        for at in range(0, len(values), CHUNK):
            yield values[at : at + CHUNK]


class StoredTensors(Mapping[str, "Tensor"]):
    """One group of tensors in its files, each read when it is asked for and forgotten again."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._home: dict[str, Path] = {}
        for path in paths:
            with _opened(path) as file:
                self._home.update(dict.fromkeys(file.keys(), path))

    def __getitem__(self, name: str) -> Tensor:
        path = self._home[name]
        with _opened(path) as file:
            tensor: Tensor = file.get_tensor(name)
            return tensor

    def __contains__(self, name: object) -> bool:
        return name in self._home

    def __iter__(self) -> Iterator[str]:
        return iter(self._home)

    def __len__(self) -> int:
        return len(self._home)


def _opened(path: Path) -> safe_open:
    try:
        return safe_open(path, framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        raise QiError(f"{path}: no readable safetensors file ({error}); take another checkpoint") from error
