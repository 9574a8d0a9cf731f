"""What a rank writes of a checkpoint: which of its tensors, into which files, and copies of them to write later."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence

import torch
from attrs import evolve, frozen
from torch import Tensor

from qi_core import Checkpoint, Part
from qi_core.tensorfiles import Form, KnownForms, Spot, forms, safetensors, shards

SLAB = 1 << 28
"""Bytes of pinned memory that are asked for at once. A power of two, for torch rounds up to one."""


@frozen(kw_only=True, eq=False)
class File:
    """One that is to be written."""

    group: str
    name: str
    tensors: Mapping[str, Tensor]
    """These, and maybe others."""
    known: Mapping[str, Form]
    """Those that go into it."""
    spots: Mapping[str, Spot] | None = None
    """Where each belongs, if they are boxes of tensors."""

    @property
    def path(self) -> str:
        """In the checkpoint's folder."""
        return f"{self.group}/{self.name}"

    def content(self) -> Iterator[bytes | memoryview]:
        return safetensors(self.tensors, self.known, self.spots)


def outgoing(checkpoint: Checkpoint, rank: int, ranks: int, limit: int) -> list[File]:
    """The files of one rank. ``limit``: bytes of values that one may hold."""
    if ranks == 1 and not checkpoint.parts:
        return [
            File(group=group, name=name, tensors=tensors, known={each: known[each] for each in names})
            for group, tensors in checkpoint.tensors.items()
            for known in (forms(tensors),)
            for name, names in shards(group, known, limit)
        ]
    found: list[File] = []
    for group in {**checkpoint.tensors, **checkpoint.parts}:
        parts = {name: (_alone(tensor),) for name, tensor in checkpoint.tensors.get(group, {}).items()}
        boxes = parts | {name: _own(name, each) for name, each in checkpoint.parts.get(group, {}).items()}
        least = int(rank == 0)  # so that of a group without tensors there is a file
        for number in range(max([least, *map(len, boxes.values())])):  # of one tensor there is one box in a file
            layer = {name: each[number] for name, each in boxes.items() if number < len(each)}
            found += _files(
                group, f"rank-{rank:05d}-of-{ranks:05d}" + f"-box-{number + 1}" * bool(number), layer, limit
            )
    return found


def _files(group: str, stem: str, layer: Mapping[str, Part], limit: int) -> Iterator[File]:
    tensors = {name: part.tensor for name, part in layer.items()}
    known = forms(tensors)
    for name, names in shards(stem, known, limit):
        spots = {each: Spot(layer[each].offsets, layer[each].shape) for each in names}
        yield File(group=group, name=name, tensors=tensors, known={each: known[each] for each in names}, spots=spots)


def _alone(tensor: Tensor) -> Part:
    return Part(tensor=tensor, shape=tuple(tensor.shape), offsets=(0,) * tensor.ndim)


def _own(name: str, parts: Sequence[Part]) -> tuple[Part, ...]:
    """Those that this rank writes. Of several copies one is written: whose, the name decides, so that all ranks get
    their share of the work."""
    return tuple(part for part in parts if zlib.crc32(f"{name}{part.offsets}".encode()) % part.copies == part.copy)


class Room:
    """Main memory for copies, kept from save to save: to get it from the system takes several times as long as to fill
    it."""

    def __init__(self) -> None:
        self._kept: dict[str, Tensor] = {}
        self._pinned = Pinned()

    def copied(self, files: Sequence[File]) -> list[File]:
        """The same with copies of the tensors, which nothing changes while they are written. What is read from a disk
        is not copied: training does not change it."""
        done = [
            file if isinstance(file.tensors, KnownForms) else evolve(file, tensors=self._of(file)) for file in files
        ]
        if self._pinned.used:
            torch.cuda.synchronize()
        used = {_key(file, name) for file in files for name in file.known}
        self._kept = {key: kept for key, kept in self._kept.items() if key in used}  # rollouts have other names later
        return done

    @property
    def nbytes(self) -> int:
        return sum(kept.nbytes for kept in self._kept.values())

    def _of(self, file: File) -> dict[str, Tensor]:
        return {name: self._copy(_key(file, name), file.tensors[name].detach()) for name in file.known}

    def _copy(self, key: str, tensor: Tensor) -> Tensor:
        kept = self._kept.get(key)
        if kept is None or (kept.dtype, kept.shape) != (tensor.dtype, tensor.shape):
            kept = self._pinned.like(tensor) if tensor.is_cuda else torch.empty(tensor.shape, dtype=tensor.dtype)
            self._kept[key] = kept
        return kept.copy_(tensor, non_blocking=True)


def _key(file: File, name: str) -> str:
    return f"{file.path}/{name}"


class Pinned:
    """Main memory that a GPU writes into by itself, which is several times quicker."""

    def __init__(self, pin: bool = True) -> None:
        self._pin = pin
        self._slab = torch.empty(0, dtype=torch.uint8)
        self._at = 0
        self.used = False

    def like(self, tensor: Tensor) -> Tensor:
        """Room for the values of a tensor."""
        self.used = True
        start = -(-self._at // 64) * 64
        if start + tensor.nbytes > len(self._slab):
            self._slab = torch.empty(max(SLAB, tensor.nbytes), dtype=torch.uint8, pin_memory=self._pin)
            start = 0
        self._at = start + tensor.nbytes
        return self._slab[start : self._at].view(tensor.dtype).view(tensor.shape)
