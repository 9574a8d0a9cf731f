"""MSRoPE (Qwen-Image report, section 3): where every token stands on three axes, and the rotation of queries and keys.

A head's channels are adjacent pairs, divided over the axes (frame, row, column); pair j of an axis of ``dim`` channels
turns by position * 10000^(-2j/dim). Pictures are centred on the origin of the last two axes; text stands on the
diagonal, past the largest picture of its own sample.

Shapes: S tokens, H heads, E channels of a head, P = E / 2 pairs.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from threading import Lock
from typing import Generic, TypeVar

import torch
from attrs import frozen
from torch import Tensor

from qi_core import Grid
from qi_plugins.mmdit.architecture import Axes

THETA = 10000.0
KEPT_BYTES = 64 << 20
K = TypeVar("K")
V = TypeVar("V")


class Kept(Generic[K, V]):
    """The things asked for last, by key, as many as fit into ``limit`` bytes; the last one always stays."""

    def __init__(self, limit: int, size: Callable[[V], int]) -> None:
        self._limit = limit
        self._size = size
        self._held = 0
        self._things: OrderedDict[K, V] = OrderedDict()
        self._lock = Lock()  # previews and training may share a network between threads

    def get(self, key: K, make: Callable[[], V]) -> V:
        """The thing of this key, made if it isn't there."""
        with self._lock:
            if key in self._things:
                self._things.move_to_end(key)
                return self._things[key]
        thing = make()
        with self._lock:
            if key not in self._things:
                self._things[key] = thing
                self._held += self._size(thing)
            while self._held > self._limit and len(self._things) > 1:
                self._held -= self._size(self._things.popitem(last=False)[1])
        return thing


@frozen(kw_only=True)
class Picture:
    """One picture on the frame axis."""

    grid: Grid
    frame: int
    """Position of its first frame."""


def place_pictures(target: Grid, references: Sequence[Grid], *, layered: bool) -> tuple[list[Picture], int]:
    """The pictures of one sample on the frame axis, and where on the diagonal its text begins.

    The target starts at frame 0, reference k at frame k. Layered: every frame of the target is a layer of its own, and
    the last picture of all is the condition, at frame -1.
    """
    if layered:
        frames, rows, columns = target
        grids: list[Grid] = [(1, rows, columns)] * frames + list(references)
        places = [*range(len(grids) - 1), -1]
    else:
        grids = [target, *references]
        places = list(range(len(grids)))
    start = max(max(rows // 2, columns // 2) for _, rows, columns in grids)
    if layered:
        start = max(start, len(grids) - 1)
    return [Picture(grid=grid, frame=place) for grid, place in zip(grids, places, strict=True)], start


def _turns(positions: Tensor, dim: int) -> Tensor:
    """(n,) positions -> (n, dim/2) unit complex numbers, float32 throughout."""
    frequencies = 1.0 / torch.pow(torch.tensor(THETA), torch.arange(0, dim, 2, dtype=torch.float32) / dim)
    angles = torch.outer(positions.float(), frequencies)
    return torch.polar(torch.ones_like(angles), angles)


class Rope:
    """Rotation tables. No buffers: casting a module to bfloat16 would drop the imaginary part of a complex one."""

    def __init__(self, axes: Axes) -> None:
        self.axes = axes
        self._pictures: Kept[tuple[Picture, torch.device], Tensor] = Kept(KEPT_BYTES, lambda table: table.nbytes)
        self._diagonal: dict[torch.device, Tensor] = {}

    def picture(self, picture: Picture, device: torch.device) -> Tensor:
        """(tokens, P) complex64."""
        return self._pictures.get((picture, device), lambda: self._picture(picture).to(device))

    def _picture(self, picture: Picture) -> Tensor:
        frames, rows, columns = picture.grid
        starts = (picture.frame, rows // 2 - rows, columns // 2 - columns)
        axes: list[Tensor] = []
        for axis, (start, count, dim) in enumerate(zip(starts, picture.grid, self.axes, strict=True)):
            shape = [1, 1, 1, dim // 2]
            shape[axis] = count
            turns = _turns(torch.arange(start, start + count), dim).view(shape)
            axes.append(turns.expand(frames, rows, columns, -1))
        return torch.cat(axes, dim=-1).flatten(0, 2)

    def text(self, starts: Sequence[int], lengths: Sequence[int], device: torch.device) -> Tensor:
        """Packed text tokens, (L, P) complex64; sample i stands on the diagonal from ``starts[i]``."""
        end = max((start + length for start, length in zip(starts, lengths, strict=True)), default=0)
        diagonal = self._diagonal.get(device)
        if diagonal is None or len(diagonal) < end:
            positions = torch.arange(max(1024, 1 << (end - 1).bit_length()))
            diagonal = torch.cat([_turns(positions, dim) for dim in self.axes], dim=-1).to(device)
            self._diagonal[device] = diagonal
        parts = [diagonal[start : start + length] for start, length in zip(starts, lengths, strict=True)]
        return torch.cat(parts)


def rotate(x_SHE: Tensor, turns_S1P: Tensor) -> Tensor:
    """Turn every pair of adjacent channels, in float32; the dtype of ``x`` comes back."""
    if x_SHE.is_cuda or torch.compiler.is_compiling():
        # Inductor cannot fuse complex arithmetic; on the CPU in eager mode it is four times faster than this.
        turns = torch.view_as_real(turns_S1P)
        cos, sin = turns[..., 0], turns[..., 1]
        even, odd = x_SHE.float().view(*x_SHE.shape[:-1], -1, 2).unbind(-1)
        turned = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1)
        return turned.flatten(-2).type_as(x_SHE)
    pairs = torch.view_as_complex(x_SHE.float().view(*x_SHE.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * turns_S1P).flatten(-2).type_as(x_SHE)
