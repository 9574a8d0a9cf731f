"""Tokens -> vectors.

Shapes: L text tokens of all prompts end to end, W values in a token.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from attrs import field, frozen
from torch import Tensor

from qi_core import Condition, QiError
from qi_plugins.conditioner_characters.tokens import Token, tokenize


@lru_cache(maxsize=16384)
def signs(name: str, width: int) -> Tensor:
    """(W,) of +1 and -1 that the name decides, on every machine and for ever: the bits of its SHAKE-256 digest.

    Mean 0, variance 1, and two names are as good as orthogonal (cosine of about 1 / sqrt(W)).
    """
    digest = hashlib.shake_256(name.encode()).digest(-(-width // 8))
    bits = np.unpackbits(np.frombuffer(digest, dtype=np.uint8))[:width]
    return torch.from_numpy(bits.astype(np.float32) * 2.0 - 1.0)


@lru_cache(maxsize=16384)
def vector(token: Token, width: int, positions: bool) -> Tensor:
    """(W,) of unit variance."""
    own = signs(token.name, width)
    if not positions or token.place is None:
        return own
    return (own + signs(f"place:{token.place}", width)) / 2**0.5


@frozen(kw_only=True)
class CharacterTokens:
    """A live ``characters``."""

    width: int
    positions: bool = False
    device: torch.device = field(factory=lambda: torch.device("cpu"))

    def encode(self, prompts: Sequence[str], references: Sequence[Sequence[Tensor]] = ()) -> Condition:
        """See ``Conditioner.encode``: (L, W) float32."""
        if any(len(own) for own in references):
            raise QiError(
                "conditioner 'characters': got reference pictures, and it understands text alone; "
                "use a conditioner that reads pictures for editing"
            )
        tokens = [tokenize(prompt) for prompt in prompts]
        rows = [vector(token, self.width, self.positions) for own in tokens for token in own]
        text = torch.stack(rows) if rows else torch.empty(0, self.width)
        return Condition(text=text.to(self.device), lengths=tuple(len(own) for own in tokens))
