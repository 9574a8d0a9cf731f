"""Files that are flushed to the disk and counted while they are written.

Tensors are written in the safetensors format: eight bytes with the length of a JSON header, the header, the raw
values. It is written here and not by the safetensors package because one pass then does everything: one tensor at a
time leaves the GPU, its bytes are summed as they go by, and a full disk is an OSError that says so.

A tensor may lie in several boxes, each in another file; where a box begins stands in the file's metadata, in the words
of torch.distributed.checkpoint's HuggingFaceStorageWriter, so that its reader reads our files and we read its writer's.
"""

from __future__ import annotations

import json
import math
import os
import zlib
from collections import ChainMap
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from attrs import frozen
from safetensors import SafetensorError, safe_open

from qi_core.errors import QiError

if TYPE_CHECKING:
    from torch import Tensor

CHUNK = 1 << 24

SHARDING, OFFSETS, SHAPE = "DCP_SHARDING_INFO", "saved_offsets", "shape"
"""In a file's metadata: name -> where its box begins, and (ours alone) the shape of the whole tensor."""

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


@frozen
class Form:
    """What is known of a tensor without its values."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


@frozen
class Spot:
    """Where a box belongs."""

    offsets: tuple[int, ...]
    """Where in the whole tensor it begins."""
    shape: tuple[int, ...]
    """Of the whole tensor."""


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


def safetensors(
    tensors: Mapping[str, Tensor], known: Mapping[str, Form], spots: Mapping[str, Spot] | None = None
) -> Iterator[bytes | memoryview]:
    """The bytes of a safetensors file, one tensor in memory at a time; the same tensors give the same bytes, whatever
    their order. ``known``: what goes into the file; a tensor of another dtype is cast. ``spots``: where each belongs,
    in a file of boxes."""
    # Widest values first, then by name: every tensor then starts at a multiple of its element's size.
    ordered = sorted(known, key=lambda name: (-known[name].dtype.itemsize, name))
    metadata = {"format": "pt"}
    if spots is not None:
        boxes = {name: {OFFSETS: list(spots[name].offsets), SHAPE: list(spots[name].shape)} for name in ordered}
        metadata |= {"DCP_VERSION": "1.0", SHARDING: json.dumps(boxes, separators=(",", ":"))}
    header: dict[str, object] = {"__metadata__": metadata}
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


@frozen
class _Box:
    """A box of a tensor in a file."""

    path: Path
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    start: int = 0
    """Where its values begin in the file."""

    @property
    def volume(self) -> int:
        return math.prod(self.sizes)

    @property
    def corners(self) -> set[tuple[int, ...]]:
        return set(product(*((at, at + size) for at, size in zip(self.offsets, self.sizes, strict=True))))


class StoredTensors(Mapping[str, "Tensor"]):
    """Tensors in safetensors files, each read when it is asked for and forgotten again, put together of its boxes.

    Raises QiError where a file cannot be read, two hold a tensor of one name, or boxes don't fill their tensor.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._boxes: dict[str, list[_Box]] = {}
        self.forms: dict[str, Form] = {}
        boxed: dict[str, bool] = {}
        for path in paths:
            with _opened(path) as file:
                spots, starts = _spots(path, file.metadata() or {}), _starts(path)
                for name in file.keys():  # noqa: SIM118 (the reader is no dict)
                    if name in boxed and not (boxed[name] and name in spots):
                        other = self._boxes[name][0].path.name
                        raise QiError(f"{path}: {name!r} is in {other} too; get the files again")
                    boxed[name] = name in spots
                    part = file.get_slice(name)
                    if part.get_dtype() not in DTYPES:
                        raise QiError(f"{path}: {name} is {part.get_dtype()}; want one of {', '.join(DTYPES)}; cast it")
                    form = Form(DTYPES[part.get_dtype()], tuple(part.get_shape()))
                    self._add(path, name, form, starts[name], spots.get(name))
        for name, boxes in self._boxes.items():
            if boxed[name] and not _tile(boxes, self.forms[name].shape):
                raise QiError(
                    f"{boxes[0].path.parent}: {name}: what {', '.join(sorted({box.path.name for box in boxes}))} "
                    f"hold does not make up a tensor of {self.forms[name].shape}; get the files again"
                )

    def _add(
        self, path: Path, name: str, form: Form, start: int, spot: tuple[tuple[int, ...], tuple[int, ...]] | None
    ) -> None:
        offsets, shape = spot or ((0,) * len(form.shape), form.shape)
        if len(offsets) != len(form.shape):
            raise QiError(
                f"{path}: {name}: it has {len(form.shape)} dimensions, its place {len(offsets)}; it is damaged"
            )
        # Others do not tell the whole tensor's shape: it ends where its last box ends.
        ends = [at + size for at, size in zip(offsets, form.shape, strict=True)]
        before = self.forms.get(name, Form(form.dtype, shape or tuple(ends)))
        if before.dtype != form.dtype or (shape and len(shape) != len(ends)) or len(before.shape) != len(ends):
            raise QiError(f"{path}: {name}: {form.dtype} in {len(ends)} dimensions, elsewhere it is {before}; damaged")
        whole = shape or tuple(max(pair) for pair in zip(before.shape, ends, strict=True))
        self.forms[name] = Form(form.dtype, whole)
        self._boxes.setdefault(name, []).append(_Box(path, offsets, form.shape, start))

    def __getitem__(self, name: str) -> Tensor:
        return self.region(name, tuple(slice(0, size) for size in self.forms[name].shape))

    def region(self, name: str, slices: tuple[slice, ...]) -> Tensor:
        """See ``Regions``. Only files that hold some of it are opened."""
        boxes, form = self._boxes[name], self.forms[name]
        if len(boxes) == 1:
            return _read(boxes[0], form.dtype, slices).clone()
        wanted = [range(*part.indices(size)) for part, size in zip(slices, form.shape, strict=True)]
        found = torch.empty([len(each) for each in wanted], dtype=form.dtype)
        for box in boxes:
            shared = [
                range(max(want.start, at), min(want.stop, at + size))
                for want, at, size in zip(wanted, box.offsets, box.sizes, strict=True)
            ]
            if all(shared):
                there = tuple(slice(s.start - at, s.stop - at) for s, at in zip(shared, box.offsets, strict=True))
                here = tuple(slice(s.start - w.start, s.stop - w.start) for s, w in zip(shared, wanted, strict=True))
                found[here] = _read(box, form.dtype, there)
        return found

    def __contains__(self, name: object) -> bool:
        return name in self._boxes

    def __iter__(self) -> Iterator[str]:
        return iter(self._boxes)

    def __len__(self) -> int:
        return len(self._boxes)


def _tile(boxes: Sequence[_Box], shape: tuple[int, ...]) -> bool:
    """Whether boxes fill a tensor, each value once.

    They do if they have as many values and their corners, those that meet in pairs taken away, are the tensor's: the
    corners tell for each value whether an even or an odd number of boxes hold it. Odd is at least one, and then the
    count leaves no room for more.
    """
    if sum(box.volume for box in boxes) != math.prod(shape):
        return False
    corners: set[tuple[int, ...]] = set()
    for box in boxes:
        if box.volume:
            corners ^= box.corners
    return not math.prod(shape) or corners == _Box(Path(), (0,) * len(shape), shape).corners


def _spots(path: Path, metadata: Mapping[str, str]) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    """Name -> where its box begins and the shape of the whole tensor (empty where that isn't told)."""
    try:
        told = json.loads(metadata.get(SHARDING, "{}"))
        return {name: (_natural(spot[OFFSETS]), _natural(spot.get(SHAPE, ()))) for name, spot in told.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise QiError(f"{path}: where its tensors belong cannot be read ({error}); get the file again") from error


def _natural(values: Sequence[object]) -> tuple[int, ...]:
    natural = tuple(value for value in values if isinstance(value, int) and value >= 0)
    if len(natural) != len(values):
        raise ValueError(f"{values} are no offsets")
    return natural


def _starts(path: Path) -> dict[str, int]:
    """Name -> where its values begin in the file, whose header has been found sound."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    return {name: 8 + length + about["data_offsets"][0] for name, about in header.items() if name != "__metadata__"}


def _read(box: _Box, dtype: torch.dtype, slices: tuple[slice, ...]) -> Tensor:
    """Values out of a file that is mapped for it: no header is read again, and of the file no more than is used."""
    stop = box.start + box.volume * dtype.itemsize
    try:
        mapped = torch.UntypedStorage.from_file(str(box.path), False, stop)
    except (OSError, RuntimeError) as error:
        raise QiError(f"{box.path}: cannot be read any more ({error}); get the file again") from error
    values = torch.empty(0, dtype=torch.uint8).set_(mapped)[box.start : stop]  # type: ignore[arg-type]
    if box.start % dtype.itemsize:  # others need not put values where the processor likes them
        values = values.clone()
    return values.view(dtype).view(box.sizes)[slices]


def _opened(path: Path) -> safe_open:
    try:
        return safe_open(path, framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        raise QiError(f"{path}: no readable safetensors file ({error}); get the file again") from error
