"""Random numbers that depend on (seed, step, slot) alone.

Not on the order in which samples are visited, how a batch is cut, or how many ranks there are; so a resumed run needs
no generator state to draw what an unbroken one would have drawn.
"""

from __future__ import annotations

import hashlib

import torch
from attrs import frozen


@frozen
class Dice:
    """All the randomness of one step."""

    seed: int
    step: int

    def roll(self, slot: int, purpose: str = "train") -> torch.Generator:
        """A fresh CPU generator for one sample; the same arguments give the same stream, on every machine."""
        name = f"{self.seed}/{self.step}/{purpose}/{slot}".encode()
        number = int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little")
        return torch.Generator().manual_seed(number >> 1)  # manual_seed takes 63 bits
