"""Decoding a big picture in overlapping tiles that are blended into each other."""

from __future__ import annotations

from collections.abc import Callable

import torch
from attrs import frozen
from torch import Tensor


@frozen(kw_only=True)
class Tiling:
    """Sides in latent pixels."""

    size: int
    overlap: int


def starts(length: int, tiling: Tiling) -> list[int]:
    """Where tiles begin along a side: even steps, the last tile ends with the side, every tile is whole."""
    if length <= tiling.size:
        return [0]
    stride = tiling.size - tiling.overlap
    count = -(-(length - tiling.size) // stride) + 1
    return [round(i * (length - tiling.size) / (count - 1)) for i in range(count)]


def ramp(length: int, overlap: int, *, first: bool, last: bool) -> Tensor:
    """Weight of a tile along one side: rises over the overlap, stays, falls; flat where the picture ends. (length,)"""
    at = torch.arange(length) + 0.5
    rise = torch.ones(length) if first else (at / max(overlap, 1)).clamp(max=1)
    fall = torch.ones(length) if last else ((length - at) / max(overlap, 1)).clamp(max=1)
    return rise * fall


def decode_tiled(decode: Callable[[Tensor], Tensor], z: Tensor, tiling: Tiling, shrink: int) -> Tensor:
    """(B, C, h, w) -> (B, channels, shrink*h, shrink*w) float32; ``decode`` gets tiles of (B, C, <=size, <=size).

    Each pixel is the mean of the tiles that hold it, weighted by how far inside it lies.
    """
    height, width = z.shape[2:]
    tops, lefts = starts(height, tiling), starts(width, tiling)
    total: Tensor | None = None
    weights = torch.zeros(height * shrink, width * shrink, device=z.device)
    for top in tops:
        for left in lefts:
            tile = decode(z[:, :, top : top + tiling.size, left : left + tiling.size]).float()
            rows, columns = tile.shape[2:]
            across, edge = tiling.overlap * shrink, (tops[-1], lefts[-1])
            weight = torch.outer(
                ramp(rows, across, first=top == 0, last=top == edge[0]),
                ramp(columns, across, first=left == 0, last=left == edge[1]),
            ).to(z.device)
            if total is None:
                total = tile.new_zeros(*tile.shape[:2], *weights.shape)
            there = (slice(top * shrink, top * shrink + rows), slice(left * shrink, left * shrink + columns))
            total[:, :, there[0], there[1]] += tile * weight
            weights[there] += weight
    assert total is not None
    return total / weights
