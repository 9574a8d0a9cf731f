"""What things are made of: wood, brick, plaster and the like, computed. No torch here.

A surface is a field of grey (how light each place is, 128 in the middle) that colours its material.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from random import Random
from typing import Any

from attrs import frozen
from PIL import Image, ImageChops, ImageDraw

from qi_core.colours import RGB
from qi_core.strings import pick
from qi_plugins.source_synthetic.noise import clouds, grain

Field = Callable[[Random, int, int, int], Any]
"""(dice, height, width, unit): ``unit`` is a length in pixels that goes with the picture."""


_LARGE = 64
"""Units from which on a field is computed at half the size."""


@frozen(kw_only=True)
class Surface:
    """A material and what it is called."""

    english: str
    chinese: str
    at: tuple[str, str]
    """How a thing stands to it, before its English and behind its Chinese name."""
    colours: tuple[RGB, ...]
    depth: float
    """How much lighter or darker its lightest and darkest places are, as a part."""
    field: Field

    def picture(self, dice: Random, height: int, width: int, unit: int, colour: RGB | None = None) -> Any:
        """RGB. ``colour``: in the place of one of its own."""
        colour = colour or self.colours[pick(dice, len(self.colours))]
        if unit >= _LARGE:  # materials are soft where pictures are that large, and this takes half the time
            field = self.field(dice, -(-height // 2), -(-width // 2), unit // 2).resize(
                (width, height), Image.Resampling.BILINEAR
            )
        else:
            field = self.field(dice, height, width, unit)
        field.putpalette(_palette(colour, round(self.depth * 100)))
        return field.convert("RGB")


@lru_cache(maxsize=256)
def _palette(colour: RGB, depth: int) -> bytes:
    values = bytearray()
    for level in range(256):
        factor = 1 + depth / 100 * (level - 128) / 128
        values += bytes(min(max(round(part * factor + (factor - 1) * 24), 0), 255) for part in colour)
    return bytes(values)


def blend(one: Any, other: Any, part: float) -> Any:
    """``part`` of the other."""
    return Image.blend(one, other, part)


def added(one: Any, other: Any) -> Any:
    """Both deviations from 128 together."""
    return ImageChops.add(one, other, 1, -128)


def even(dice: Random, height: int, width: int, unit: int) -> Any:
    """Paper, plaster, metal: large soft spots and fine grain."""
    soft = clouds(dice, height, width, 2 + height // (6 * unit), 2 + width // (6 * unit))
    return added(blend(soft, Image.new("L", (width, height), 128), 0.45), grain(dice, height, width, 14))


def rough(dice: Random, height: int, width: int, unit: int) -> Any:
    """Concrete and asphalt: spots of two sizes and strong grain."""
    soft = clouds(dice, height, width, 2 + height // (4 * unit), 2 + width // (4 * unit))
    fine = clouds(dice, height, width, 4 * height // unit, 4 * width // unit)
    return added(blend(soft, fine, 0.5), grain(dice, height, width, 26))


def wood(dice: Random, height: int, width: int, unit: int) -> Any:
    """Planks with rings: a sine of a warped height, and streaks along it."""
    warp = blend(Image.linear_gradient("L").resize((width, height)), clouds(dice, height, width, 3, 1), 0.35)
    rings = warp.point(_sine(5 + pick(dice, 6)))
    streaks = clouds(dice, height, width, 8 * height // unit, 2)
    field = added(blend(rings, streaks, 0.6), grain(dice, height, width, 8))
    pen, plank = ImageDraw.Draw(field), max(unit * (2 + pick(dice, 3)), 8)
    for y in range(int(dice.random() * plank), height, plank):
        pen.line((0, y, width, y), fill=20, width=max(1, unit // 16))
    return field


def veneer(dice: Random, height: int, width: int, unit: int) -> Any:
    """One board, calmer."""
    warp = blend(Image.linear_gradient("L").resize((width, height)), clouds(dice, height, width, 3, 1), 0.4)
    streaks = clouds(dice, height, width, 6 * height // unit, 2)
    return added(blend(warp.point(_sine(3 + pick(dice, 3))), streaks, 0.6), grain(dice, height, width, 6))


def brick(dice: Random, height: int, width: int, unit: int) -> Any:
    """Rows of bricks, every other one shifted by half a brick, with mortar between them."""
    return _laid(dice, height, width, max(unit // 2, 6), max(round(unit * 1.3), 12), 0.5, 70, 225)


def tiles(dice: Random, height: int, width: int, unit: int) -> Any:
    """Square tiles."""
    return _laid(dice, height, width, max(unit, 8), max(unit, 8), 0.0, 20, 40)


def cloth(dice: Random, height: int, width: int, unit: int) -> Any:
    """Soft folds from the top to the bottom, and a weave."""
    folds = clouds(dice, height, width, 1, 3 + width // (3 * unit))
    return added(blend(folds, Image.new("L", (width, height), 128), 0.3), grain(dice, height, width, 12))


def sky(dice: Random, height: int, width: int, unit: int) -> Any:
    """Lighter toward the ground, with clouds."""
    ground = Image.linear_gradient("L").resize((width, height))
    return blend(ground, clouds(dice, height, width, 4, 4), 0.5)


def slate(dice: Random, height: int, width: int, unit: int) -> Any:
    """A board that was wiped: broad smears."""
    smears = clouds(dice, height, width, 6, 3)
    return added(blend(smears, Image.new("L", (width, height), 128), 0.3), grain(dice, height, width, 10))


def _laid(dice: Random, height: int, width: int, tall: int, long: int, shift: float, spread: int, mortar: int) -> Any:
    field = Image.new("L", (width, height), mortar)
    pen, gap = ImageDraw.Draw(field), max(1, tall // 10)
    top, left = int(dice.random() * tall), int(dice.random() * long)
    for row, y in enumerate(range(-top, height, tall)):
        for x in range(-left - int(shift * long) * (row % 2), width, long):
            pen.rectangle((x, y, x + long - gap - 1, y + tall - gap - 1), fill=128 - spread // 2 + pick(dice, spread))
    return added(field, grain(dice, height, width, 14))


@lru_cache(maxsize=16)
def _sine(periods: int) -> list[int]:
    return [round(128 + 90 * math.sin(2 * math.pi * periods * value / 256)) for value in range(256)]


SURFACES: dict[str, Surface] = {
    "wood": Surface(
        english="a wooden table",
        chinese="木桌",
        at=("on", "上"),
        colours=((150, 100, 60), (115, 72, 42), (190, 145, 95)),
        depth=0.35,
        field=wood,
    ),
    "brick": Surface(
        english="a brick wall",
        chinese="砖墙",
        at=("in front of", "前"),
        colours=((150, 75, 55), (165, 100, 75), (120, 110, 105)),
        depth=0.45,
        field=brick,
    ),
    "plaster": Surface(
        english="a plastered wall",
        chinese="粉刷过的墙面",
        at=("in front of", "前"),
        colours=((225, 220, 208), (200, 205, 210), (230, 210, 170), (180, 200, 190)),
        depth=0.14,
        field=even,
    ),
    "concrete": Surface(
        english="a concrete wall",
        chinese="水泥墙",
        at=("in front of", "前"),
        colours=((150, 150, 148), (125, 128, 130)),
        depth=0.3,
        field=rough,
    ),
    "tiles": Surface(
        english="a tiled wall",
        chinese="瓷砖墙",
        at=("in front of", "前"),
        colours=((220, 225, 225), (140, 175, 190), (190, 170, 140)),
        depth=0.4,
        field=tiles,
    ),
    "cloth": Surface(
        english="a tablecloth",
        chinese="桌布",
        at=("on", "上"),
        colours=((190, 60, 60), (60, 90, 140), (220, 215, 200), (70, 110, 80)),
        depth=0.3,
        field=cloth,
    ),
    "asphalt": Surface(
        english="the asphalt",
        chinese="柏油路面",
        at=("on", "上"),
        colours=((75, 75, 78), (95, 95, 95)),
        depth=0.45,
        field=rough,
    ),
    "sky": Surface(
        english="the sky",
        chinese="天空",
        at=("against", "下"),
        colours=((110, 160, 215), (150, 185, 220), (170, 175, 185)),
        depth=0.3,
        field=sky,
    ),
}
"""Grounds of scenes."""
