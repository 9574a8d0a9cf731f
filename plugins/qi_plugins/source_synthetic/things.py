"""What stands in a scene and is written on: how it looks, and what it is called. No torch here."""

from __future__ import annotations

from random import Random
from typing import Any

from attrs import frozen
from PIL import Image, ImageChops, ImageDraw

from qi_core.colours import NAMED, RGB, contrast
from qi_plugins.source_synthetic.lettering import Align, Block
from qi_plugins.source_synthetic.noise import grain
from qi_plugins.source_synthetic.surfaces import Field, Surface, cloth, even, slate, veneer

LEAST_CONTRAST = 4.5
"""Of letters and ground: what WCAG 2.2 asks of small text, for light and grain take some of it."""


@frozen(kw_only=True)
class Thing:
    """A kind of things."""

    english: str
    chinese: str
    manner: tuple[str, str]
    """How letters came onto it, in English and Chinese."""
    grounds: tuple[tuple[str, RGB], ...]
    """What it may be coloured, and what that is called."""
    inks: tuple[str, ...]
    depth: float
    field: Field
    shape: tuple[float, float]
    """Least and most width by height."""
    behind: tuple[str, ...]
    """Surfaces before which it stands."""
    margin: float = 0.08
    """On each side, as a part of the shorter one."""
    frame: RGB | None = None
    edge: bool = False
    """A line of the letters' colour runs along the rim."""
    corner: float = 0.0
    """Radius, as a part of the shorter side."""
    bold: bool = False
    chalk: bool = False
    align: tuple[Align, ...] = ("centre",)
    tells: bool = True
    """Whether its colour is told."""

    def looks(self) -> list[tuple[str, RGB, str]]:
        """(ground's name, its colour, ink) with enough contrast."""
        return [
            (name, colour, ink)
            for name, colour in self.grounds
            for ink in self.inks
            if contrast(colour, NAMED[ink]) >= LEAST_CONTRAST and name != ink
        ]

    def inside(self, width: int, height: int) -> tuple[int, int, int, int]:
        """(left, top, width, height) of where letters may stand."""
        rim = round(self.margin * min(width, height)) + 2
        return rim, rim, width - 2 * rim, height - 2 * rim

    def picture(
        self, dice: Random, width: int, height: int, unit: int, ground: RGB, ink: RGB, block: Block, align: Align
    ) -> Any:
        """RGBA, with a transparent rim of two pixels so that its edges are smooth wherever it is turned to."""
        surface = Surface(english="", chinese="", at=("", ""), colours=(ground,), depth=self.depth, field=self.field)
        sheet = surface.picture(dice, height, width, unit)
        self._trim(sheet, width, height, ink)
        letters = Image.new("L", (width, height))
        block.draw(ImageDraw.Draw(letters), self.inside(width, height), align, "middle", 255)
        if self.chalk:  # dust lies unevenly
            letters = ImageChops.multiply(letters, grain(dice, height, width, 40).point(_DUST))
        sheet.paste(ink, mask=letters)
        sheet.putalpha(self._outline(width, height))
        return sheet

    def _trim(self, sheet: Any, width: int, height: int, ink: RGB) -> None:
        pen, short = ImageDraw.Draw(sheet), min(width, height)
        radius = round(self.corner * short)
        if self.frame is not None:
            pen.rounded_rectangle((2, 2, width - 3, height - 3), radius, None, self.frame, max(3, short // 24))
        if self.edge:
            rim = max(3, short // 28)
            pen.rounded_rectangle(
                (2 + rim, 2 + rim, width - 3 - rim, height - 3 - rim),
                max(radius - rim, 0),
                None,
                ink,
                max(2, short // 50),
            )

    def _outline(self, width: int, height: int) -> Any:
        outline = Image.new("L", (width, height))
        radius = round(self.corner * min(width, height))
        ImageDraw.Draw(outline).rounded_rectangle((2, 2, width - 3, height - 3), radius, 255)
        return outline


def lettered(dice: Random, width: int, height: int, ink: RGB, block: Block, texture: Any) -> Any:
    """RGBA: letters alone, as they are painted onto a wall. ``texture``: (H, W) of the wall, that shows through."""
    letters = Image.new("L", (width, height))
    block.draw(ImageDraw.Draw(letters), (2, 2, width - 4, height - 4), "centre", "middle", 255)
    sheet = Image.new("RGB", (width, height), ink)
    sheet.putalpha(ImageChops.multiply(letters, texture.point(_WORN)))
    return sheet


_DUST = [min(255, 150 + value) for value in range(256)]
_WORN = [min(255, 205 + value // 2) for value in range(256)]

_WHITE: tuple[str, RGB] = ("white", (245, 244, 238))
_VIVID: tuple[tuple[str, RGB], ...] = (
    ("red", (185, 25, 32)),
    ("blue", (25, 70, 165)),
    ("green", (10, 105, 60)),
    ("black", (32, 32, 34)),
    ("yellow", (250, 205, 30)),
    ("orange", (240, 130, 25)),
    ("purple", (95, 40, 135)),
    _WHITE,
)
_INSIDE = ("wood", "cloth", "concrete", "plaster")
_WALLS = ("brick", "plaster", "concrete", "tiles")

KINDS: dict[str, Thing] = {
    "paper": Thing(
        english="a sheet of paper",
        chinese="一张纸",
        manner=("printed", "印"),
        grounds=(_WHITE, ("white", (252, 250, 240))),
        inks=("black", "blue", "red", "brown"),
        depth=0.05,
        field=even,
        shape=(0.7, 1.5),
        behind=(*_INSIDE, "asphalt"),
        margin=0.1,
        align=("centre", "left"),
    ),
    "note": Thing(
        english="a sticky note",
        chinese="一张便利贴",
        manner=("written", "写"),
        grounds=(("yellow", (252, 235, 110)), ("pink", (250, 170, 195)), ("cyan", (150, 225, 235))),
        inks=("black", "blue", "brown", "purple"),
        depth=0.07,
        field=even,
        shape=(0.9, 1.15),
        behind=("wood", "plaster", "tiles", "concrete"),
        margin=0.12,
        align=("centre", "left"),
    ),
    "card": Thing(
        english="a card with a border",
        chinese="一张带边框的卡片",
        manner=("printed", "印"),
        grounds=(_WHITE, ("black", (35, 35, 40)), ("blue", (30, 55, 110)), ("green", (20, 80, 60))),
        inks=("black", "white", "blue", "yellow", "red"),
        depth=0.05,
        field=even,
        shape=(1.4, 1.9),
        behind=_INSIDE,
        margin=0.16,
        edge=True,
        corner=0.04,
    ),
    "poster": Thing(
        english="a poster",
        chinese="一张海报",
        manner=("printed", "印"),
        grounds=_VIVID,
        inks=("white", "black", "yellow"),
        depth=0.08,
        field=even,
        shape=(0.65, 0.9),
        behind=_WALLS,
        margin=0.1,
        bold=True,
    ),
    "banner": Thing(
        english="a banner",
        chinese="一条横幅",
        manner=("printed", "印"),
        grounds=_VIVID,
        inks=("white", "yellow", "black"),
        depth=0.22,
        field=cloth,
        shape=(2.2, 3.6),
        behind=("sky", *_WALLS),
        margin=0.12,
        bold=True,
    ),
    "blackboard": Thing(
        english="a blackboard with a wooden frame",
        chinese="一块木框黑板",
        manner=("written in chalk", "用粉笔写"),
        grounds=(("black", (40, 44, 44)), ("green", (30, 66, 52))),
        inks=("white", "yellow", "pink", "cyan"),
        depth=0.35,
        field=slate,
        shape=(1.2, 1.9),
        behind=("plaster", "brick", "concrete"),
        margin=0.13,
        frame=(140, 95, 55),
        chalk=True,
        align=("centre", "left"),
        tells=False,
    ),
    "whiteboard": Thing(
        english="a whiteboard",
        chinese="一块白板",
        manner=("written in marker", "用记号笔写"),
        grounds=(_WHITE,),
        inks=("black", "blue", "red", "green"),
        depth=0.06,
        field=slate,
        shape=(1.2, 1.9),
        behind=("plaster", "concrete", "tiles"),
        margin=0.13,
        frame=(150, 152, 156),
        align=("centre", "left"),
        tells=False,
    ),
    "wooden-sign": Thing(
        english="a wooden sign",
        chinese="一块木牌",
        manner=("painted", "漆"),
        grounds=(("brown", (108, 66, 36)), ("brown", (205, 165, 115)), ("brown", (84, 52, 32))),
        inks=("white", "black", "yellow"),
        depth=0.28,
        field=veneer,
        shape=(1.3, 2.6),
        behind=("plaster", "brick", "sky", "concrete"),
        margin=0.12,
        corner=0.08,
        bold=True,
        tells=False,
    ),
    "street-sign": Thing(
        english="a metal sign",
        chinese="一块金属标牌",
        manner=("printed", "印"),
        grounds=_VIVID,
        inks=("white", "black"),
        depth=0.07,
        field=even,
        shape=(1.3, 2.8),
        behind=("sky", "brick", "concrete", "plaster"),
        margin=0.16,
        edge=True,
        corner=0.12,
        bold=True,
    ),
    "wall": Thing(
        english="the wall itself",
        chinese="墙面",
        manner=("painted", "漆"),
        grounds=(),
        inks=("black", "white", "red", "blue", "green", "yellow"),
        depth=0.0,
        field=even,
        shape=(1.2, 2.6),
        behind=_WALLS,
        bold=True,
        tells=False,
    ),
}
"""Their names are ``component.THINGS``."""
