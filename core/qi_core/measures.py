"""What can be said of a picture in a number, without a model.

Y is luma, 0 to 255 (ITU-R BT.601: 0.299 R + 0.587 G + 0.114 B, rounded), as Pillow converts. What is summed is summed
in whole numbers wherever a verdict hangs on it, so that it is the same on every machine. Shapes: H, W pixels.
"""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

if TYPE_CHECKING:
    from torch import Tensor

Bytes: TypeAlias = NDArray[np.uint8]
Floats: TypeAlias = NDArray[np.float32]

_ROWS = 256  # of which differences are held at once: a picture of 64 million pixels must not need gigabytes
EDGE = 48
"""Steps of luma over two pixels that count as an edge."""
WINDOW, STRIDE = 64, 32
"""Pixels: the squares in which mosaics are looked for."""
FINEST, COARSEST = 6, 24
"""Pixels of a mosaic's cells."""
REGULAR = 0.6
"""Of a window's steps, the share beyond chance that stands on a grid, from which it counts as a mosaic. Photographs
come to 0.2, mosaics that were scaled afterwards to 0.8."""
FAINT = 0.4
"""Mean step of luma below which a window is plain and no mosaic."""


def picture(image: Tensor) -> Any:
    """(3, H, W) uint8 -> a picture of Pillow's."""
    return Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy()))


def luma(image: Tensor) -> Bytes:
    """(3, H, W) -> (H, W)."""
    return np.asarray(picture(image).convert("L"))


def clarity(luma: Bytes) -> float:
    """(H, W) -> the variance of L = Y(up) + Y(down) + Y(left) + Y(right) - 4 Y over the pixels that have all four
    (Pech-Pacheco et al. 2000, "Diatom autofocusing in brightfield microscopy")."""
    height, width = luma.shape
    count: int = (height - 2) * (width - 2)
    if height < 3 or width < 3:
        return 0.0
    total = squares = 0
    for top in range(1, height - 1, _ROWS):
        part = luma[top - 1 : min(top + _ROWS, height - 1) + 1].astype(np.int32)
        laplacian = part[:-2, 1:-1] + part[2:, 1:-1] + part[1:-1, :-2] + part[1:-1, 2:] - 4 * part[1:-1, 1:-1]
        total += int(laplacian.sum(dtype=np.int64))
        squares += int((laplacian * laplacian).sum(dtype=np.int64))
    return (squares * count - total * total) / (count * count)


def entropy(histogram: list[int]) -> float:
    """256 counts -> sum p log2 1/p, in bits."""
    total = sum(histogram)
    return sum(count / total * math.log2(total / count) for count in histogram if count)


def average(histogram: list[int]) -> float:
    """256 counts -> the mean of what they count, 0 to 1."""
    return sum(value * count for value, count in enumerate(histogram)) / (255 * sum(histogram))


def saturation(rgb: Any) -> float:
    """The mean of (max - min) / max of red, green and blue, 0 where all are 0, of a picture of Pillow's."""
    return average(rgb.convert("HSV").getchannel("S").histogram())


def texture(luma: Bytes) -> float:
    """(H, W) -> the share of pixels on an edge: |Y(right) - Y(left)| + |Y(below) - Y(above)| of at least ``EDGE``."""
    height, width = luma.shape
    if height < 3 or width < 3:
        return 0.0
    edges = 0
    for top in range(1, height - 1, _ROWS):
        part = luma[top - 1 : min(top + _ROWS, height - 1) + 1].astype(np.int16)
        across, down = np.abs(part[1:-1, 2:] - part[1:-1, :-2]), np.abs(part[2:, 1:-1] - part[:-2, 1:-1])
        edges += int(np.count_nonzero(across + down >= EDGE))
    return float(edges / ((height - 2) * (width - 2)))


def blur(luma: Bytes) -> float:
    """(H, W) -> 0 (sharp) to 1: the share of its steps between neighbours that a picture keeps when it is blurred once
    more, over 9 pixels, along the worse of both directions (Crete et al. 2007, "The blur effect", equations 1 to 5).

    1 for a plain picture, which has no steps.
    """
    return max(_blur_down(luma), _blur_down(luma.T))


def _blur_down(luma: Bytes) -> float:
    if luma.shape[0] < 10:
        return 1.0
    kept = 0
    whole = 0
    for left in range(0, luma.shape[1], _ROWS):
        part = luma[:, left : left + _ROWS].astype(np.int32)
        sums = np.cumsum(np.pad(part, ((1, 0), (0, 0))), axis=0)
        blurred = sums[9:] - sums[:-9]  # 9 times the mean of rows i .. i + 8, which stands on row i + 4
        steps = 9 * np.abs(np.diff(part[4:-4], axis=0))
        whole += int(steps.sum(dtype=np.int64))
        kept += int(np.maximum(steps - np.abs(np.diff(blurred, axis=0)), 0).sum(dtype=np.int64))
    return 1.0 - kept / whole if whole else 1.0


def mosaic(luma: Bytes) -> float:
    """(H, W) -> the share of the picture, 0 to 1, that lies under a regular grid of plain squares of 6 to 24 pixels.

    In windows of 64 pixels: on a mosaic, the steps between neighbouring columns stand on the lines of a grid, and those
    between rows on one of the same spacing. A picture smaller than a window has none. What is truly a grid of plain
    squares (tiles, pixel art) is taken for one.
    """
    height, width = luma.shape
    if height < WINDOW or width < WINDOW:
        return 0.0
    tops, lefts = _starts(height), _starts(width)
    found = [_regular(luma[top : top + WINDOW], lefts) for top in tops]
    return float(np.mean(np.concatenate(found)))


def _starts(length: int) -> list[int]:
    return sorted({*range(0, length - WINDOW, STRIDE), length - WINDOW})


def _regular(rows: Bytes, lefts: list[int]) -> NDArray[np.bool_]:
    """(64, W) -> (windows,) whether each is a mosaic."""
    windows = np.stack([rows[:, left : left + WINDOW] for left in lefts]).astype(np.int16)
    across = np.abs(np.diff(windows, axis=2)).sum(axis=1, dtype=np.int64).astype(np.float32)  # (windows, 63)
    down = np.abs(np.diff(windows, axis=1)).sum(axis=2, dtype=np.int64).astype(np.float32)
    steps = np.minimum(across.mean(axis=1), down.mean(axis=1)) / WINDOW
    found: NDArray[np.bool_] = (steps >= FAINT) & (np.minimum(_on_grid(across), _on_grid(down)).max(axis=1) >= REGULAR)
    return found


def _on_grid(profiles: Floats) -> Floats:
    """(windows, 63) steps -> (windows, periods) the share on the best grid of each period, beyond chance: -inf to 1."""
    total = np.maximum(profiles.sum(axis=1, keepdims=True), 1e-6)
    best: list[Floats] = []
    for masks in _grids():  # (phases, 63), all of one period
        share, chance = profiles @ masks.T / total, masks.mean(axis=1)
        best.append(((share - chance) / (1 - chance)).max(axis=1))
    return np.stack(best, axis=1)


@cache
def _grids() -> tuple[Floats, ...]:
    """Of each period from FINEST to COARSEST in thirds of a pixel: the lines at every phase, each line 2 pixels wide,
    since scaling smears them."""
    place = np.arange(WINDOW - 1, dtype=np.float32)
    periods = np.arange(FINEST, COARSEST + 1e-6, 1 / 3, dtype=np.float32)
    return tuple(
        ((place[None, :] - np.arange(0, period, 0.5)[:, None]) % period < 2.0).astype(np.float32) for period in periods
    )
