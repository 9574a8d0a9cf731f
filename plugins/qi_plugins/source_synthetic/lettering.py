"""Text in a box: as large as the box allows, wrapped, aligned. No torch here.

Sizes are pixels an em; boxes and widths are pixels.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from attrs import evolve, frozen

from qi_core import typeface
from qi_core.paragraph import wrap

Align: TypeAlias = Literal["left", "centre", "right"]
Valign: TypeAlias = Literal["top", "middle", "bottom"]
_LEAN = 0.025
"""By how much bold strokes are thicker to each side, in ems."""


@frozen(kw_only=True)
class Block:
    """Lines of one size."""

    lines: tuple[str, ...]
    font: str
    size: int
    spacing: float
    """From base line to base line, in ems."""
    bold: bool = False

    @property
    def stroke(self) -> int:
        return round(_LEAN * self.size) if self.bold else 0

    @property
    def step(self) -> int:
        return round(self.spacing * self.size)

    @property
    def height(self) -> int:
        return self.step * len(self.lines)

    @property
    def width(self) -> int:
        measure = typeface.load(self.font, self.size).getlength
        return round(max(float(measure(line)) for line in self.lines)) + 2 * self.stroke

    def draw(self, pen: Any, box: tuple[int, int, int, int], align: Align, valign: Valign, fill: Any) -> None:
        """``pen``: an ImageDraw. ``box``: (left, top, width, height)."""
        left, top, width, height = box
        loaded = typeface.load(self.font, self.size)
        ascent, descent = loaded.getmetrics()
        top += {"top": 0, "middle": (height - self.height) // 2, "bottom": height - self.height}[valign]
        base = top + (self.step + ascent - descent) // 2  # ascent and descent centred in each line
        x = {"left": left + self.stroke, "centre": left + width / 2, "right": left + width - self.stroke}[align]
        anchor = {"left": "ls", "centre": "ms", "right": "rs"}[align]
        for row, line in enumerate(self.lines):
            pen.text(
                (x, base + row * self.step),
                line,
                font=loaded,
                fill=fill,
                anchor=anchor,
                stroke_width=self.stroke,
                stroke_fill=fill,
            )


def fit(
    text: str,
    font: str,
    width: int,
    height: int,
    *,
    largest: int,
    smallest: int,
    most: int = 0,
    spacing: float = 1.25,
    bold: bool = False,
) -> Block | None:
    """The largest size at which the text fits on at most so many lines (0: any number); None: not even the smallest."""
    low, high = smallest, min(largest, int(height / spacing))
    if most == 1:  # a line's width goes with its size but for rounding, so its size is known at once
        measured = typeface.load(font, 64).getlength(text) / 64 + 2 * _LEAN * bold
        low = max(smallest, min(high, int(width / measured) - 2)) if measured else low
    best = None
    while low <= high:
        size = (low + high) // 2
        block = Block(lines=(), font=font, size=size, spacing=spacing, bold=bold)
        lines = wrap(text, font, size, width - 2 * block.stroke)
        if lines and len(lines) <= (most or len(lines)) and block.step * len(lines) <= height:
            best, low = evolve(block, lines=lines), size + 1
        elif most == 1 and low > smallest:
            low, high = smallest, size - 1  # the guess was too bold
        else:
            high = size - 1
    return best


def at_size(block: Block, text: str, size: int, width: int) -> Block:
    """The same text at a smaller size, wrapped anew."""
    smaller = evolve(block, size=size)
    return evolve(smaller, lines=wrap(text, block.font, size, width - 2 * smaller.stroke) or block.lines)
