"""What a filled template is made of, and how it is drawn. No torch here.

Boxes are (left, top, width, height) in whole pixels. Straight edges lie between pixels; what is round or slanted is
drawn twice as large and made smaller, so that it is smooth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from attrs import define, field
from PIL import Image, ImageDraw

from qi_core.colours import RGB
from qi_plugins.source_synthetic.lettering import Align, Block, Valign, at_size

Box: TypeAlias = tuple[int, int, int, int]


@define(kw_only=True)
class Slot:
    """Text in its place; its size may still fall to that of those it belongs with."""

    text: str
    block: Block
    box: Box
    align: Align
    valign: Valign
    colour: RGB
    together: str
    """Slots that name the same have one size; empty: on its own."""


@define(kw_only=True)
class Sheet:
    """Grows while a template is filled, and draws at the end: first shapes in their order, then letters."""

    height: int
    width: int
    ground: RGB
    slots: list[Slot] = field(factory=list)
    _shapes: list[Callable[[Any], None]] = field(factory=list)

    def box(self, box: Box, fill: RGB | None, outline: RGB | None = None, radius: int = 0) -> None:
        """A rectangle."""
        left, top, width, height = box = (*box[:2], max(box[2], 1), max(box[3], 1))
        radius = min(radius, width // 2, height // 2)
        thick = max(1, round(min(self.height, self.width) / 300))
        if radius == 0:
            edges = (left, top, left + width - 1, top + height - 1)
            self._shapes.append(lambda canvas: ImageDraw.Draw(canvas).rectangle(edges, fill, outline, thick))
            return
        if outline is not None:
            self._round(box, radius, outline)
            box, radius, fill = shrunk(box, thick, thick), max(radius - thick, 0), fill or self.ground
        if fill is not None:
            self._round(box, radius, fill)

    def dot(self, box: Box, fill: RGB) -> None:
        """An ellipse."""
        self._smooth(box, fill, lambda pen: pen.ellipse(_twice(0, 0, box[2], box[3]), 255))

    def slice(self, box: Box, start: float, end: float, fill: RGB) -> None:
        """Of a pie, between two angles in degrees, clockwise from the right."""
        self._smooth(box, fill, lambda pen: pen.pieslice(_twice(0, 0, box[2], box[3]), start, end, 255))

    def line(self, box: Box, points: Sequence[tuple[float, float]], thick: int, fill: RGB) -> None:
        """Through points of the box."""
        twice = [(2 * x, 2 * y) for x, y in points]
        self._smooth(box, fill, lambda pen: pen.line(twice, 255, 2 * thick, joint="curve"))

    def picture(self, box: Box, picture: Any) -> None:
        """Of the box's size."""
        self._shapes.append(lambda canvas: canvas.paste(picture, box[:2]))

    def write(self, slot: Slot) -> None:
        self.slots.append(slot)

    def drawn(self) -> Any:
        """RGB."""
        canvas = Image.new("RGB", (self.width, self.height), self.ground)
        for shape in self._shapes:
            shape(canvas)
        sizes: dict[str, int] = {}
        for slot in self.slots:
            sizes[slot.together] = min(sizes.get(slot.together, slot.block.size), slot.block.size)
        pen = ImageDraw.Draw(canvas)
        for slot in self.slots:
            size = sizes[slot.together] if slot.together else slot.block.size
            block = slot.block if size == slot.block.size else at_size(slot.block, slot.text, size, slot.box[2])
            block.draw(pen, slot.box, slot.align, slot.valign, slot.colour)
        return canvas

    def _round(self, box: Box, radius: int, fill: RGB) -> None:
        self._smooth(box, fill, lambda pen: pen.rounded_rectangle(_twice(0, 0, box[2], box[3]), 2 * radius, 255))

    def _smooth(self, box: Box, fill: RGB, draw: Callable[[Any], None]) -> None:
        def shape(canvas: Any) -> None:
            if box[2] > 0 and box[3] > 0:
                mask = Image.new("L", (2 * box[2], 2 * box[3]))
                draw(ImageDraw.Draw(mask))
                canvas.paste(fill, (box[0], box[1], box[0] + box[2], box[1] + box[3]), mask.reduce(2))

        self._shapes.append(shape)


def part(of: Box, box: tuple[float, float, float, float]) -> Box:
    """A box given as parts of another; edges that meet share a pixel's border."""
    left, top = of[0] + of[2] * box[0], of[1] + of[3] * box[1]
    right, bottom = left + of[2] * box[2], top + of[3] * box[3]
    return round(left), round(top), round(right) - round(left), round(bottom) - round(top)


def shrunk(box: Box, across: int, down: int) -> Box:
    """Less so many pixels on each side."""
    return box[0] + across, box[1] + down, max(box[2] - 2 * across, 1), max(box[3] - 2 * down, 1)


def _twice(left: int, top: int, width: int, height: int) -> tuple[int, int, int, int]:
    return 2 * left, 2 * top, 2 * (left + width) - 1, 2 * (top + height) - 1
