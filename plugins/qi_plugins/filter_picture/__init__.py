"""Filters of what the eye sees: size, shape, clarity, light, colour, texture, mosaics."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qi_core.hooks import hookimpl

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qi_core import FilterComponent


@hookimpl
def qi_filters() -> Mapping[str, type[FilterComponent]]:
    from qi_plugins.filter_picture.pixels import Blur, Clarity, Entropy, Luma, Mosaic, Saturation, Texture
    from qi_plugins.filter_picture.stored import Aspect, FileSize, Resolution, Rotation

    return {
        "file-size": FileSize,
        "resolution": Resolution,
        "aspect": Aspect,
        "rotation": Rotation,
        "clarity": Clarity,
        "luma": Luma,
        "saturation": Saturation,
        "entropy": Entropy,
        "texture": Texture,
        "mosaic": Mosaic,
        "blur": Blur,
    }
