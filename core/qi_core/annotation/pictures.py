"""The pictures to annotate, and how they are shown to the model."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from attrs import frozen

from qi_core.blob import opened
from qi_core.entries import Entry
from qi_core.pixels import Unusable, decoding, size_of
from qi_core.sizes import PILLOWS_OWN_LIMIT, Size
from qi_core.skipped import Skip

LEAST = 28
"""Pixels of a side, at least: a patch of the models that look."""


@runtime_checkable
class Stored(Protocol):
    """The settings of a source whose pictures lie in files."""

    def stored(self, skip: Skip) -> Sequence[Entry]:
        """All that are found, with their captions and categories; none is opened. Raises QiError if there is none."""
        ...


@frozen(kw_only=True)
class Show:
    """How a picture is shown, and what one may cost."""

    side: int = 1024
    """Larger ones are scaled down to the area of a square of this side: models are paid by the pixel."""
    pixels: int = PILLOWS_OWN_LIMIT
    file: int = 256 * 2**20
    quality: int = 92

    def jpeg(self, entry: Entry) -> tuple[bytes, int]:
        """The picture, upright and on white, and the bytes of its file. Raises Unusable."""
        with opened(entry.image, self.file, self.pixels) as (image, size):
            stored = size_of(image)
            if min(stored) < LEAST:
                raise Unusable("too small to look at", f"{stored.width}x{stored.height}, {LEAST} pixels wanted")
            factor = min(1.0, self.side / math.sqrt(stored.width * stored.height))
            shown = Size(*(max(round(length * factor), 1) for length in stored))
            if min(shown) < LEAST:
                raise Unusable("too narrow to look at", f"{stored.width}x{stored.height} at {self.side}*{self.side}")
            with decoding(image, factor, (255, 255, 255)) as decoded:
                rgb = decoded.resize((shown.width, shown.height), reducing_gap=3.0)
        file = io.BytesIO()
        rgb.save(file, "JPEG", quality=self.quality, subsampling=0)
        return file.getvalue(), size
