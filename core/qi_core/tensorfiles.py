"""Files that are flushed to the disk and counted while they are written.

Tensors are written in the safetensors format: eight bytes with the length of a JSON header, the header, the raw
values. It is written here and not by the safetensors package because one pass then does everything: one tensor at a
time leaves the GPU, its bytes are summed as they go by, and a full disk is an OSError that says so.
"""

from __future__ import annotations

import json
import math
import os
import zlib
from collections import ChainMap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from attrs import frozen
from safetensors import SafetensorError, safe_open

from qi_core.errors import QiError

if TYPE_CHECKING:
    from torch import Tensor

CHUNK = 1 << 24

NAMES = {
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
DTYPES = {name: dtype for dtype, name in NAMES.items()}


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


@frozen
class Form:
    """What is known of a tensor without its values."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


@runtime_checkable
class KnownForms(Protocol):
    """Tensors that are read or made one by one, while their forms are known beforehand."""

    forms: dict[str, Form]


@runtime_checkable
class Regions(Protocol):
    """Tensors of which a box can be had without the rest."""

    def region(self, name: str, slices: tuple[slice, ...]) -> Tensor:
        """The values of a box."""
        ...


def forms(tensors: Mapping[str, Tensor]) -> dict[str, Form]:
    """Name -> dtype and shape. Tensors on the disk are not read for it."""
    if isinstance(tensors, KnownForms):
        return dict(tensors.forms)
    if isinstance(tensors, ChainMap):
        known = [forms(part) for part in tensors.maps]
        return {name: form for part in reversed(known) for name, form in part.items()}
    return {name: Form(tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}


def shards(name: str, known: Mapping[str, Form], limit: int) -> Iterator[tuple[str, list[str]]]:
    """File names and the tensors that go into each, in their order, at most ``limit`` bytes of values a file.

    One file is called ``<name>.safetensors``, several ``<name>-00001-of-00003.safetensors``, as elsewhere.
    """
    parts: list[list[str]] = [[]]
    used = 0
    for tensor, form in known.items():
        if parts[-1] and used + form.nbytes > limit:
            parts.append([])
            used = 0
        parts[-1].append(tensor)
        used += form.nbytes
    if len(parts) == 1:
        yield f"{name}.safetensors", parts[0]
        return
    for number, part in enumerate(parts, 1):
        yield f"{name}-{number:05d}-of-{len(parts):05d}.safetensors", part


def safetensors(tensors: Mapping[str, Tensor], known: Mapping[str, Form]) -> Iterator[bytes | memoryview]:
    """The bytes of a safetensors file, one tensor in memory at a time; the same tensors give the same bytes, whatever
    their order. ``known``: what goes into the file; a tensor of another dtype is cast."""
    # Widest values first, then by name: every tensor then starts at a multiple of its element's size.
    ordered = sorted(known, key=lambda name: (-known[name].dtype.itemsize, name))
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name in ordered:
        form = known[name]
        if form.dtype not in NAMES:
            raise QiError(f"{name!r} is of {form.dtype}, which safetensors has no name for; cast it")
        header[name] = {
            "dtype": NAMES[form.dtype],
            "shape": list(form.shape),
            "data_offsets": [start, start + form.nbytes],
        }
        start += form.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for name in ordered:
        tensor = tensors[name].detach().cpu().to(known[name].dtype).contiguous()
        values = tensor.reshape(-1).view(torch.uint8).numpy().data
        for at in range(0, len(values), CHUNK):
            yield values[at : at + CHUNK]


class StoredTensors(Mapping[str, "Tensor"]):
    """Tensors in safetensors files, each read when it is asked for and forgotten again.

    Raises QiError where a file cannot be read, or two hold a tensor of one name.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._home: dict[str, Path] = {}
        self.forms: dict[str, Form] = {}
        for path in paths:
            with _opened(path) as file:
                for name in file.keys():  # noqa: SIM118 (the reader is no dict)
                    if name in self._home:
                        raise QiError(f"{path}: {name!r} is in {self._home[name].name} too; get the files again")
                    part = file.get_slice(name)
                    if part.get_dtype() not in DTYPES:
                        raise QiError(f"{path}: {name} is {part.get_dtype()}; want one of {', '.join(DTYPES)}; cast it")
                    self._home[name] = path
                    self.forms[name] = Form(DTYPES[part.get_dtype()], tuple(part.get_shape()))

    def __getitem__(self, name: str) -> Tensor:
        path = self._home[name]
        with _opened(path) as file:
            tensor: Tensor = file.get_tensor(name)
            return tensor

    def region(self, name: str, slices: tuple[slice, ...]) -> Tensor:
        """See ``Regions``."""
        if not slices:
            return self[name]
        with _opened(self._home[name]) as file:
            tensor: Tensor = file.get_slice(name)[slices]
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
        raise QiError(f"{path}: no readable safetensors file ({error}); get the file again") from error
