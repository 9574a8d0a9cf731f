"""2 x 2 latent pixels <-> one token.

A token holds channel by channel its four latent pixels, row by row: feature c*4 + dy*2 + dx. Tokens are row-major.
"""

from __future__ import annotations

from torch import Tensor

SIDE = 2
"""Latent pixels along one side of a token."""


def pack(z: Tensor) -> Tensor:
    """(B, C, h, w) with even h and w -> (B, h/2 * w/2, 4C)."""
    batch, channels, height, width = z.shape
    z = z.reshape(batch, channels, height // SIDE, SIDE, width // SIDE, SIDE)
    return z.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, channels * SIDE * SIDE)


def unpack(tokens: Tensor, rows: int, columns: int) -> Tensor:
    """(B, rows * columns, 4C) -> (B, C, 2 rows, 2 columns)."""
    batch, _, features = tokens.shape
    z = tokens.reshape(batch, rows, columns, features // (SIDE * SIDE), SIDE, SIDE)
    return z.permute(0, 3, 1, 4, 2, 5).reshape(batch, -1, rows * SIDE, columns * SIDE)
