"""Filters of the picture as it will be trained on: scaled and cropped already.

Without a threshold they measure and keep everything, which is how a threshold is found (``qi data filter``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import field, frozen, validators

from qi_core.bar import Bar, above_none, in_order, or_none

if TYPE_CHECKING:
    from qi_core import Filter, Place, Sample


@frozen(kw_only=True)
class Clarity:
    """Variance of the Laplacian of luma (4 neighbours, luma 0 to 255; Pech-Pacheco et al. 2000).

    From 0 for a plain ground, over about 100 where a photograph begins to look sharp, to a million. It grows with the
    square of the contrast, so that faint pictures have little of it too. Stage S2 of the report.
    """

    least: float = field(default=0.0, validator=validators.ge(0))
    """0: not asked."""
    most: float = field(default=0.0, validator=[validators.ge(0), in_order])
    """0: not asked. Noise has much of it."""

    def build(self, place: Place) -> Filter:
        def measured(sample: Sample) -> float:
            from qi_core.measures import clarity, luma

            return clarity(luma(sample.image))

        return Bar(
            measuring=measured,
            least=above_none(self.least),
            most=or_none(self.most),
            below="not clear",
            above="too much grain",
        )


@frozen(kw_only=True)
class Luma:
    """Mean luma, 0 (black) to 1 (white). Stage S2 of the report: neither nearly black nor washed out."""

    least: float = field(default=0.0, validator=[validators.ge(0), validators.le(1)])
    """0: not asked."""
    most: float = field(default=1.0, validator=[validators.ge(0), validators.le(1), in_order])
    """1: not asked."""

    def build(self, place: Place) -> Filter:
        def measured(sample: Sample) -> float:
            from qi_core.measures import average, picture

            return average(picture(sample.image).convert("L").histogram())

        return Bar(
            measuring=measured,
            least=above_none(self.least),
            most=or_none(self.most, 1),
            below="too dark",
            above="too bright",
        )


@frozen(kw_only=True)
class Saturation:
    """Mean of (max - min) / max of red, green and blue, 0 where all are 0: 0 (greys) to 1.

    Stage S2 of the report leaves out what is unnaturally colourful; ``least`` leaves out what has no colour.
    """

    least: float = field(default=0.0, validator=[validators.ge(0), validators.le(1)])
    """0: not asked."""
    most: float = field(default=1.0, validator=[validators.ge(0), validators.le(1), in_order])
    """1: not asked."""

    def build(self, place: Place) -> Filter:
        def measured(sample: Sample) -> float:
            from qi_core.measures import picture, saturation

            return saturation(picture(sample.image))

        return Bar(
            measuring=measured,
            least=above_none(self.least),
            most=or_none(self.most, 1),
            below="too pale",
            above="too colourful",
        )


@frozen(kw_only=True)
class Entropy:
    """Entropy of the histogram of luma, in bits: 0 (one grey) to 8 (all 256 alike).

    Photographs have 6 to 7.8, drawings of few colours 1 to 4. Stage S2 of the report: large plain areas say little.
    """

    least: float = field(default=0.0, validator=[validators.ge(0), validators.le(8)])
    """0: not asked."""
    most: float = field(default=8.0, validator=[validators.ge(0), validators.le(8), in_order])
    """8: not asked."""

    def build(self, place: Place) -> Filter:
        def measured(sample: Sample) -> float:
            from qi_core.measures import entropy, picture

            return entropy(picture(sample.image).convert("L").histogram())

        return Bar(
            measuring=measured,
            least=above_none(self.least),
            most=or_none(self.most, 8),
            below="not detailed",
            above="too detailed",
        )


@frozen(kw_only=True)
class Texture:
    """Share of pixels, 0 to 1, on an edge: |Y(right) - Y(left)| + |Y(below) - Y(above)| of 48 or more, of 255.

    Stage S2 of the report leaves out what is all texture: foliage, gravel, noise.
    """

    least: float = field(default=0.0, validator=[validators.ge(0), validators.le(1)])
    """0: not asked."""
    most: float = field(default=1.0, validator=[validators.ge(0), validators.le(1), in_order])
    """1: not asked."""

    def build(self, place: Place) -> Filter:
        def measured(sample: Sample) -> float:
            from qi_core.measures import luma, texture

            return texture(luma(sample.image))

        return Bar(
            measuring=measured,
            least=above_none(self.least),
            most=or_none(self.most, 1),
            below="no texture",
            above="all texture",
        )


@frozen(kw_only=True)
class Mosaic:
    """Share of the picture, 0 to 1, under a regular grid of plain squares of 6 to 24 pixels, as faces are hidden by.

    Stage S6 of the report. It looks at windows of 64 pixels, so a covered face of less than that in the scaled picture
    is missed; tiled walls and pixel art are taken for mosaics.
    """

    most: float = field(default=1.0, validator=[validators.ge(0), validators.le(1)])
    """1: not asked; 0.01: one window in a hundred."""

    def build(self, place: Place) -> Filter:
        def measured(sample: Sample) -> float:
            from qi_core.measures import luma, mosaic

            return mosaic(luma(sample.image))

        return Bar(measuring=measured, most=or_none(self.most, 1), above="mosaic")


@frozen(kw_only=True)
class Blur:
    """How blurred the picture is, 0 (sharp) to 1, whatever its contrast (Crete et al. 2007). Stage S6 of the report.

    A sharp picture with the spectrum of photographs has 0.17; blurred by a Gaussian of 1, 2 and 4 pixels it has 0.35,
    0.59 and 0.81. Plain pictures have 1.
    """

    most: float = field(default=1.0, validator=[validators.ge(0), validators.le(1)])
    """1: not asked."""

    def build(self, place: Place) -> Filter:
        def measured(sample: Sample) -> float:
            from qi_core.measures import blur, luma

            return blur(luma(sample.image))

        return Bar(measuring=measured, most=or_none(self.most, 1), above="blurred")
