"""Noise that is the same everywhere: fields of grey, as Pillow's pictures of mode L. No torch here.

All is drawn from the raw bits of PCG64 (O'Neill 2014), whose stream numpy promises to keep.
"""

from __future__ import annotations

from functools import lru_cache
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_TILE = 512
"""Side of the tile of grain; larger pictures repeat it, which nobody sees in white noise."""


def raw(dice: Random, count: int) -> NDArray[np.uint8]:
    """So many random bytes."""
    bits = np.random.PCG64(int(dice.random() * 2**53)).random_raw((count + 7) // 8)
    return bits.view(np.uint8)[:count]


def clouds(dice: Random, height: int, width: int, down: int, across: int) -> Any:
    """(H, W): about ``down`` x ``across`` smooth spots, 0 to 255."""
    down, across = max(down, 1) + 2, max(across, 1) + 2
    small = Image.fromarray(raw(dice, down * across).reshape(down, across))
    # Smooth at a quarter of the size where spots are that large, the rest is cheaper: half the time at 1024 pixels.
    size = tuple(full if spots * 16 > full else -(-full // 4) for full, spots in ((width, across), (height, down)))
    smooth = small.resize(size, Image.Resampling.BICUBIC, box=(0.5, 0.5, across - 0.5, down - 0.5))
    return smooth if size == (width, height) else smooth.resize((width, height), Image.Resampling.BILINEAR)


def grain(dice: Random, height: int, width: int, spread: float) -> Any:
    """(H, W): white noise around 128 of that standard deviation."""
    top, left = int(dice.random() * _TILE), int(dice.random() * _TILE)
    tile = np.roll(_tile(), (top, left), axis=(0, 1))
    rows, columns = -(-height // _TILE), -(-width // _TILE)
    if rows * columns > 1:
        tile = np.tile(tile, (rows, columns))
    picture = Image.fromarray(np.ascontiguousarray(tile[:height, :width]))
    return picture.point(_scaled(round(spread * 16)))


@lru_cache(maxsize=1)
def _tile() -> NDArray[np.uint8]:
    """(_TILE, _TILE) around 128, standard deviation 42.5: the mean of three uniform bytes is nearly Gaussian."""
    bits = np.random.PCG64(20140905).random_raw(_TILE * _TILE * 3 // 8).view(np.uint8)
    tile: NDArray[np.uint8] = np.rint(bits.reshape(3, _TILE, _TILE).mean(axis=0, dtype=np.float64)).astype(np.uint8)
    tile.setflags(write=False)
    return tile


@lru_cache(maxsize=4096)
def _scaled(sixteenths: int) -> list[int]:
    factor = sixteenths / 16 / 42.5
    return [min(max(round(128 + (value - 128) * factor), 0), 255) for value in range(256)]
