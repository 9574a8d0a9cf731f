"""Filters of the picture as it was stored, before it was made to fit."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from attrs import field, frozen, validators

from qi_core.bar import NOTHING, Bar, above_none, in_order, or_none

if TYPE_CHECKING:
    from qi_core import Filter, Place, Sample


@frozen(kw_only=True)
class FileSize:
    """Bytes of the picture's file: a tiny file of a large picture holds little, a huge one is often no photograph.

    Stage S1 of the report. Nothing is said of pictures that come from no file.
    """

    least: int = field(default=0, validator=validators.ge(0))
    """Bytes. 0: not asked."""
    most: int = field(default=0, validator=[validators.ge(0), in_order])
    """Bytes. 0: not asked."""

    def build(self, place: Place) -> Filter:
        return Bar(
            measuring=lambda sample: float(sample.origin.bytes) if sample.origin else NOTHING,
            least=above_none(self.least),
            most=or_none(self.most),
            below="file too small",
            above="file too large",
        )


@frozen(kw_only=True)
class Resolution:
    """Pixels of the picture as it was stored, told as a side: 512 means 512*512, whatever the shape.

    Stages S1 and S5 of the report: what is enlarged for training is blurred.
    """

    least: int = field(default=0, validator=validators.ge(0))
    """Pixels a side. 0: not asked."""
    most: int = field(default=0, validator=[validators.ge(0), in_order])
    """Pixels a side. 0: not asked."""
    of: Literal["area", "shorter side"] = "area"
    """The side of a square of the same area, or the picture's own shorter side."""

    def build(self, place: Place) -> Filter:
        return Bar(
            measuring=self.side,
            least=above_none(self.least),
            most=or_none(self.most),
            below="resolution too low",
            above="resolution too high",
        )

    def side(self, sample: Sample) -> float:
        """Pixels."""
        height, width = stored_size(sample)
        return math.sqrt(height * width) if self.of == "area" else float(min(height, width))


@frozen(kw_only=True)
class Aspect:
    """The longer side of the picture as it was stored by its shorter one: 1 for a square, 3 for a strip of 3:1."""

    most: float = field(default=0.0, validator=[validators.ge(0)])
    """0: not asked."""

    def build(self, place: Place) -> Filter:
        return Bar(measuring=longer_by_shorter, most=or_none(self.most), above="too long a strip")


@frozen(kw_only=True)
class Rotation:
    """1 where EXIF says that the picture was stored on its side, upside down or mirrored, else 0.

    Stage S2 of the report, which leaves such pictures out: their EXIF is often wrong. They are turned upright here
    before anything else looks at them.
    """

    most: Literal[0, 1] = 0
    """1: they are only counted."""

    def build(self, place: Place) -> Filter:
        return Bar(
            measuring=lambda sample: float(sample.origin.turned) if sample.origin else NOTHING,
            most=self.most,
            above="turned by EXIF",
        )


def stored_size(sample: Sample) -> tuple[int, int]:
    """Height and width as stored; of a picture that was made just now, its own."""
    if sample.origin:
        return sample.origin.height, sample.origin.width
    _, height, width = sample.image.shape
    return int(height), int(width)


def longer_by_shorter(sample: Sample) -> float:
    """At least 1."""
    height, width = stored_size(sample)
    return max(height, width) / min(height, width)
