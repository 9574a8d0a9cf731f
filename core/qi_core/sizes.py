"""Buckets of area and aspect ratio. Heights and widths are always named, never told by their order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from qi_core.errors import QiError

Box = tuple[float, float, float, float]
"""(left, top, right, bottom) in pixels, as Pillow has it."""


PILLOWS_OWN_LIMIT = 89_478_485
"""Pixels of a picture beyond which Pillow warns of a bomb."""


SMALLEST = 32
"""Pixels a side of a size that is told exactly: "16x9" is a ratio, mistyped."""


class Size(NamedTuple):
    """Pixels."""

    height: int
    width: int

    @property
    def ratio(self) -> float:
        """Width by height."""
        return self.width / self.height


def parse_ratio(text: str) -> float:
    """``16:9`` -> width by height. Raises ValueError."""
    width, colon, height = text.partition(":")
    if not (colon and width.isdigit() and height.isdigit() and int(width) and int(height)):
        raise ValueError(
            f"{text!r} is no ratio; write width:height in whole numbers ('16:9'), or a size in pixels ('1664x928')"
        )
    return int(width) / int(height)


def parse_size(text: str) -> Size | None:
    """``1664x928`` -> that size, width first as everybody writes it; None for what is no size."""
    width, cross, height = text.partition("x")
    if not (cross and width.isdigit() and height.isdigit() and min(int(width), int(height)) >= SMALLEST):
        return None
    return Size(height=int(height), width=int(width))


def some_ratios(_: object, __: object, value: tuple[str, ...]) -> None:
    """Validator of a field of shapes, ``16:9`` or ``1664x928``: one at least."""
    if not value:
        raise ValueError("no ratio given; give at least one, such as '1:1'")
    for text in value:
        if parse_size(text) is None:
            parse_ratio(text)


def bucket(area: int, ratio: float, multiple: int) -> Size:
    """The size of about ``area`` pixels and that ratio, on the grid of ``multiple``."""
    return Size(
        height=_on_grid(math.sqrt(area / ratio), multiple),
        width=_on_grid(math.sqrt(area * ratio), multiple),
    )


def shaped(text: str, area: int, multiple: int) -> Size:
    """The bucket of a shape: ``16:9`` at about ``area`` pixels, or ``1664x928`` exactly. Raises QiError where an exact
    size does not lie on the grid."""
    size = parse_size(text)
    if size is None:
        return bucket(area, parse_ratio(text), multiple)
    if size.height % multiple or size.width % multiple:
        raise QiError(
            f"ratios: {text!r}: both sides must be multiples of {multiple} pixels for this autoencoder; choose others"
        )
    return size


def nearest(buckets: Sequence[Size], picture: Size) -> Size:
    """The bucket whose shape is nearest: twice as wide is as far as half as wide. The first of equals."""
    return min(buckets, key=lambda size: abs(math.log(size.ratio / picture.ratio)))


def own_size(area: int, picture: Size, multiple: int, enlarge: bool) -> Size:
    """The picture's own shape at about ``area``; without ``enlarge`` never larger than it is."""
    if not enlarge:
        area = min(area, picture.height * picture.width)
    # A strip thinner than one multiple would be drawn out to many times the area.
    thinnest = max(area / multiple**2, 1.0)
    size = bucket(area, min(max(picture.ratio, 1 / thinnest), thinnest), multiple)
    if enlarge:
        return size
    return Size(
        height=max(min(size.height, picture.height // multiple * multiple), multiple),
        width=max(min(size.width, picture.width // multiple * multiple), multiple),
    )


def scale(picture: Size, target: Size) -> float:
    """The factor, the same for height and width, at which the picture just covers the target."""
    return max(target.height / picture.height, target.width / picture.width)


def cropped(picture: Size, target: Size) -> float:
    """The share of the picture that does not fit into the target once it covers it."""
    factor = scale(picture, target)
    return 1.0 - (target.height * target.width) / (picture.height * picture.width * factor**2)


def crop_box(picture: Size, target: Size, across: float, down: float) -> Box:
    """The part of the picture that becomes the target; ``across``, ``down`` in [0, 1] place it (0.5: the middle)."""
    factor = scale(picture, target)
    width = min(target.width / factor, float(picture.width))
    height = min(target.height / factor, float(picture.height))
    left, top = (picture.width - width) * across, (picture.height - height) * down
    return left, top, min(left + width, float(picture.width)), min(top + height, float(picture.height))


def _on_grid(length: float, multiple: int) -> int:
    return max(int(length / multiple + 0.5), 1) * multiple
