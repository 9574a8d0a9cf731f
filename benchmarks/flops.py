"""Floating-point operations of the MMDiT, by formula; a test holds it against what torch counts.

The rule: matrix products and attention, two operations a multiply-add, and nothing else (no norms, no activations, no
optimizer). A training step is three forward passes: the backward pass has two products for each one of the forward
pass. Blocks that are computed again to save memory are not counted: their time is spent, but nothing is gained by it.
"""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen

from qi_plugins.mmdit.architecture import Architecture

SINUSOID = 256


@frozen(kw_only=True)
class Tokens:
    """One sample."""

    text: int
    target: int
    references: int = 0


def forward_flops(arch: Architecture, samples: Sequence[Tokens]) -> int:
    """One forward pass of a packed batch. Attention never crosses samples."""
    width, hidden = arch.width, arch.width * arch.mlp_ratio
    text = sum(s.text for s in samples)
    target = sum(s.target for s in samples)
    image = target + sum(s.references for s in samples)
    times = len(samples) * (2 if arch.zero_cond_t else 1)
    pairs = sum((s.text + s.target + s.references) ** 2 for s in samples)
    pairs_last = sum(s.target * (s.text + s.target + s.references) for s in samples)

    # Multiply-adds.
    square, mlp = width * width, 2 * width * hidden
    modulation = 6 * square * (times + len(samples))
    block = modulation + (4 * square + mlp) * (image + text) + 2 * width * pairs
    # In the last block targets alone ask and go on; text gives keys and values.
    last = modulation + 2 * square * (image + text) + (2 * square + mlp) * target + 2 * width * pairs_last
    ends = (
        image * arch.in_channels * width
        + text * arch.text_width * width
        + times * (SINUSOID * width + square)
        + len(samples) * 2 * square
        + target * width * arch.out_channels
    )
    return 2 * ((arch.layers - 1) * block + last + ends)


def training_flops(arch: Architecture, samples: Sequence[Tokens]) -> int:
    """Forward and backward."""
    return 3 * forward_flops(arch, samples)
