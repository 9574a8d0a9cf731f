"""A scene: a ground, things on it that are written on, light and shadow. No torch here."""

from __future__ import annotations

import math
from random import Random
from typing import Any

from attrs import field, frozen
from PIL import Image, ImageDraw

from qi_core.colours import NAMED, RGB, contrast
from qi_core.drawing import Rejected
from qi_core.sizes import Size
from qi_core.strings import pick
from qi_plugins.source_synthetic import light
from qi_plugins.source_synthetic.component import ComposedText
from qi_plugins.source_synthetic.lettering import Align, Block, fit
from qi_plugins.source_synthetic.painted import Painted
from qi_plugins.source_synthetic.perspective import View, seen
from qi_plugins.source_synthetic.photos import Photos
from qi_plugins.source_synthetic.saying import Seen, caption
from qi_plugins.source_synthetic.surfaces import SURFACES
from qi_plugins.source_synthetic.things import KINDS, LEAST_CONTRAST, Thing, lettered
from qi_plugins.source_synthetic.vocabulary import Vocabulary

_NOMINAL = 1000.0
_POLED = ("street-sign", "wooden-sign", "banner")
Room = tuple[float, float, float, float]


@frozen(kw_only=True)
class _Ground:
    """What stands behind everything."""

    picture: Any
    surface: str
    """Empty for a photograph."""
    colour: RGB
    said: str
    """The photograph's caption."""


@frozen(kw_only=True)
class _Sheet:
    """A thing that is chosen and measured, before it is drawn."""

    kind: str
    view: View
    width: int
    height: int
    text: str
    block: Block
    align: Align
    ground: RGB
    ground_name: str
    ink: str


@frozen(kw_only=True, eq=False)
class Scenes:
    """Draws ``composed-text``."""

    settings: ComposedText
    vocabularies: tuple[Vocabulary, ...]
    sizes: tuple[Size, ...]
    photos: Photos | None
    _looks: dict[str, list[tuple[str, RGB, str]]] = field(init=False)

    @_looks.default
    def _all_looks(self) -> dict[str, list[tuple[str, RGB, str]]]:
        return {name: thing.looks() for name, thing in KINDS.items()}

    def size(self, form: Random) -> Size:
        return self.sizes[pick(form, len(self.sizes))]

    def paint(self, n: int, form: Random, dice: Random) -> Painted:
        """See ``Painter``."""
        size = self.size(form)
        vocabulary = self.vocabularies[pick(dice, len(self.vocabularies))]
        most = self.settings.objects[1]
        count = self.settings.objects[0] + pick(dice, most - self.settings.objects[0] + 1)
        kinds, surface = self._kinds(dice, count)
        unit = max(round(math.sqrt(size.height * size.width) / 12), 4)
        ground = self._ground(dice, surface, size, unit)
        canvas = ground.picture
        shown: list[Seen] = []
        lamp = light.Lamp.of(dice, self.settings.shade)
        for index, (kind, room) in enumerate(zip(kinds, rooms(dice, kinds, size), strict=True)):
            number = n * most + index if n >= 0 else -1
            sheet = self._sheet(dice, kind, room, size, ground, vocabulary, number)
            self._place(dice, canvas, sheet, ground, unit, lamp)
            shown.append(_seen(sheet, size))
        canvas = lamp.shine(dice, canvas)
        spread = self.settings.grain * dice.random()
        if spread >= 1:  # less is not seen, and costs as much
            canvas = light.noisy(dice, canvas, spread)
        return Painted(
            picture=canvas,
            prompt=caption(dice, shown, ground.surface, ground.said, vocabulary.language),
            text="\n".join(one.text for one in shown),
            category=f"text/compositional/{kinds[0]}",
        )

    def _kinds(self, dice: Random, count: int) -> tuple[list[str], str]:
        """The things, and a surface before which all of them may stand; none: a photograph."""
        things = self.settings.things
        if self.photos is not None and (dice.random() >= self.settings.computed):
            things = tuple(thing for thing in things if thing != "wall")
            return [things[pick(dice, len(things))] for _ in range(count)], ""
        first = things[pick(dice, len(things))]
        behind = KINDS[first].behind
        surface = behind[pick(dice, len(behind))]
        able = [thing for thing in things if surface in KINDS[thing].behind]
        return [first, *(able[pick(dice, len(able))] for _ in range(count - 1))], surface

    def _ground(self, dice: Random, surface: str, size: Size, unit: int) -> _Ground:
        if surface:
            material = SURFACES[surface]
            colour = material.colours[pick(dice, len(material.colours))]
            picture = material.picture(dice, size.height, size.width, unit, colour)
            return _Ground(picture=picture, surface=surface, colour=colour, said="")
        assert self.photos is not None
        name = self.photos.choose(dice)
        picture = self.photos.picture(name, size.height, size.width, dice)
        return _Ground(picture=picture, surface="", colour=(128, 128, 128), said=self.photos.caption(name))

    def _sheet(
        self, dice: Random, kind: str, room: Room, size: Size, ground: _Ground, vocabulary: Vocabulary, number: int
    ) -> _Sheet:
        thing = KINDS[kind]
        ratio = thing.shape[0] + dice.random() * (thing.shape[1] - thing.shape[0])
        tilt = math.radians(self.settings.tilt)
        angles = [part * tilt * (2 * dice.random() - 1) for part in (1.0, 0.5, 1 / 3)]
        share = 0.72 + 0.24 * dice.random()
        flat = _seen_as(ratio * _NOMINAL, _NOMINAL, angles, room, share)
        # As many pixels as where it is seen largest: there one of the sheet is one of the picture, elsewhere more.
        scale = max(
            math.dist(flat.corners[i], flat.corners[(i + 1) % 4]) / (_NOMINAL * (ratio if i % 2 == 0 else 1))
            for i in range(4)
        )
        width, height = max(round(ratio * _NOMINAL * scale), 16), max(round(_NOMINAL * scale), 16)
        looks = self._looks[kind] or [
            ("", ground.colour, ink) for ink in thing.inks if contrast(ground.colour, NAMED[ink]) >= LEAST_CONTRAST
        ]
        name, colour, ink = looks[pick(dice, len(looks))]
        text, block = self._written(dice, thing, width, height, size, vocabulary, number)
        return _Sheet(
            kind=kind,
            view=_seen_as(width, height, angles, room, share),
            width=width,
            height=height,
            text=text,
            block=block,
            align=thing.align[pick(dice, len(thing.align))],
            ground=colour,
            ground_name=name if thing.tells else "",
            ink=ink,
        )

    def _written(
        self, dice: Random, thing: Thing, width: int, height: int, size: Size, vocabulary: Vocabulary, number: int
    ) -> tuple[str, Block]:
        """What fits: fewer words where it must be."""
        _, _, wide, tall = thing.inside(width, height)
        fewest, most = self.settings.count
        smallest = max(10, round(math.sqrt(size.height * size.width) / 40))
        spacing, largest = 1.15 + 0.25 * dice.random(), round(tall * (0.3 + 0.4 * dice.random()))
        bold = thing.bold and dice.random() < 0.7
        while True:
            text = vocabulary.phrase(dice, (fewest, most), n=number)
            font = vocabulary.font(dice, text)
            block = fit(
                text, font, wide, tall, largest=max(largest, smallest), smallest=smallest, spacing=spacing, bold=bold
            )
            if block is not None:
                return text, block
            if vocabulary.lines is not None or most == 1:
                raise Rejected("does not fit the thing that it should stand on", text[:80])
            most, fewest = max(most // 2, 1), min(fewest, max(most // 2, 1))

    def _place(self, dice: Random, canvas: Any, sheet: _Sheet, ground: _Ground, unit: int, lamp: light.Lamp) -> None:
        """Onto the canvas, with its shadow."""
        left, top, right, bottom = sheet.view.box
        if sheet.kind == "wall":
            texture = canvas.convert("L").crop((left, top, left + sheet.width, top + sheet.height))
            picture = lettered(dice, sheet.width, sheet.height, NAMED[sheet.ink], sheet.block, texture)
        else:
            picture = KINDS[sheet.kind].picture(
                dice, sheet.width, sheet.height, unit, sheet.ground, NAMED[sheet.ink], sheet.block, sheet.align
            )
        warped = picture.transform(
            (right - left, bottom - top),
            Image.Transform.PERSPECTIVE,
            sheet.view.coefficients(),
            Image.Resampling.BILINEAR,
        )
        outline = warped.getchannel("A")
        if sheet.kind != "wall":
            if ground.surface == "sky" and sheet.kind in _POLED:
                _poles(canvas, sheet.view, unit)
            elif ground.surface != "sky":
                lamp.cast(canvas, outline, (left, top), unit)
            warped = lamp.faced(warped, sheet.view.facing)
        canvas.paste(warped, (left, top), outline)


def rooms(dice: Random, kinds: list[str], size: Size) -> list[Room]:
    """(left, top, width, height) of a part of the picture for each thing, none over another."""
    count = len(kinds)
    height, width = float(size.height), float(size.width)
    margin = 0.03 * min(height, width)
    shape = math.prod(math.prod(KINDS[kind].shape) ** 0.5 for kind in kinds) ** (1 / count)
    beside = shape * (0.8 + 0.4 * dice.random()) < width / height  # the wider things are, the sooner they are stacked
    if count == 4:
        down, across = 2, 2
    else:
        down, across = (1, count) if beside else (count, 1)
    return [
        (
            column * width / across + margin,
            row * height / down + margin,
            width / across - 2 * margin,
            height / down - 2 * margin,
        )
        for row in range(down)
        for column in range(across)
    ]


def _seen_as(width: float, height: float, angles: list[float], room: Room, share: float) -> View:
    yaw, pitch, roll = angles
    return seen(width, height, yaw=yaw, pitch=pitch, roll=roll, room=room, share=share)


def _poles(canvas: Any, view: View, unit: int) -> None:
    """What holds a sign up where there is no wall: from behind it to the ground."""
    (left, top), (right, _), (lower, bottom), _ = view.corners
    middle, thick = (left + right + 2 * lower) / 4, max(unit // 6, 2)
    middle = (left + right) / 2 if abs(right - left) > 4 * thick else middle
    pen = ImageDraw.Draw(canvas)
    box = (round(middle - thick), round((top + bottom) / 2), round(middle + thick), canvas.height)
    pen.rectangle(box, fill=(96, 98, 102))
    pen.line((box[0] + thick // 2, box[1], box[0] + thick // 2, box[3]), fill=(150, 152, 156), width=max(thick // 2, 1))


def _seen(sheet: _Sheet, size: Size) -> Seen:
    x, y = (sum(corner[axis] for corner in sheet.view.corners) / 4 for axis in (0, 1))
    upper_left, upper_right, lower_right, lower_left = sheet.view.corners
    one, other = math.dist(upper_left, lower_left), math.dist(upper_right, lower_right)
    return Seen(
        kind=sheet.kind,
        text=sheet.text,
        ground=sheet.ground_name,
        ink=sheet.ink,
        x=x / size.width,
        y=y / size.height,
        from_left=one > 1.12 * other,
        from_right=other > 1.12 * one,
    )
