"""What fixes the shape of a network, and the sizes that have a name. No torch here."""

from __future__ import annotations

from typing import Literal, TypeAlias

from attrs import frozen

Axes: TypeAlias = tuple[int, int, int]
"""Channels of a head that turn with (frame, row, column)."""
Size: TypeAlias = Literal["tiny", "small", "1b", "3b", "20b"]
Predicts: TypeAlias = Literal["velocity", "data"]


@frozen
class Preset:
    """Depth and width."""

    layers: int
    heads: int
    head_dim: int
    axes_dims_rope: Axes


# D = heads x head_dim; a block holds 36 D^2 parameters: modulation 12, attention 8, MLPs 16.
PRESETS: dict[str, Preset] = {
    #              layers heads head_dim axes
    "tiny":  Preset( 4,    4,    32,    ( 8, 12, 12)),
    "small": Preset( 8,    6,    64,    ( 8, 28, 28)),
    "1b":    Preset(12,   12,   128,    (16, 56, 56)),
    "3b":    Preset(20,   16,   128,    (16, 56, 56)),
    "20b":   Preset(60,   24,   128,    (16, 56, 56)),  # released
}  # fmt: skip


@frozen(kw_only=True)
class Architecture:
    """Every number that decides the names and shapes of the weights, and what is computed with them."""

    layers: int
    heads: int
    head_dim: int
    axes_dims_rope: Axes
    mlp_ratio: int = 4
    in_channels: int
    """Values in an image token."""
    out_channels: int
    """Values the network gives for one."""
    text_width: int
    """Values in a text token."""
    zero_cond_t: bool = False
    use_additional_t_cond: bool = False
    use_layer3d_rope: bool = False

    @property
    def width(self) -> int:
        """D."""
        return self.heads * self.head_dim
