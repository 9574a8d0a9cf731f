"""Wrapped text, set as large as a picture allows. No torch here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal, TypeAlias

import numpy as np
from attrs import evolve, frozen
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from qi_core import typeface

Align: TypeAlias = Literal["left", "centre", "right"]
SMALLEST = 8
"""Pixels an em below which a paragraph is hard to read."""
SPACING = 1.25
"""From base line to base line, in ems, unless told."""
_PIECES = re.compile(r"[\u3000-\u30ff\u3400-\u9fff\uff00-\uffef]|[^\s\u3000-\u30ff\u3400-\u9fff\uff00-\uffef]+|\s+")
_CLOSING = frozenset("，。、；：？！）》」』】〉…—,.;:?!)]}%”’")
"""Never at the beginning of a line."""


@frozen(kw_only=True)
class Paragraph:
    """Lines that fit a picture."""

    lines: tuple[str, ...]
    font: str
    size: int
    height: int
    width: int
    spacing: float = SPACING
    """From base line to base line, in ems."""
    align: Align = "left"

    def mask(self) -> NDArray[np.uint8]:
        """(H, W): ink, 0 to 255. The block stands in the middle, its lines at one edge of it or in its middle."""
        loaded = typeface.load(self.font, self.size)
        step = line_step(self.size, self.spacing)
        ascent, descent = loaded.getmetrics()
        widths = [round(loaded.getlength(line)) for line in self.lines]
        left, widest = (self.width - max(widths)) // 2, max(widths)
        top = (self.height - step * len(self.lines)) // 2
        base = top + (step + ascent - descent) // 2  # ascent and descent centred in each line
        image = Image.new("L", (self.width, self.height))
        draw = ImageDraw.Draw(image)
        for row, (line, own) in enumerate(zip(self.lines, widths, strict=True)):
            off = {"left": 0, "centre": (widest - own) // 2, "right": widest - own}[self.align]
            draw.text((left + off, base + row * step), line, font=loaded, fill=255, anchor="ls")
        return np.asarray(image, dtype=np.uint8)


def line_step(size: int, spacing: float = SPACING) -> int:
    """Pixels from base line to base line."""
    return round(spacing * size)


def wrap(text: str, font: str, size: int, width: int) -> tuple[str, ...] | None:
    """Lines no wider than so many pixels: Latin text breaks at white space, Chinese anywhere but before closing
    punctuation. None where a word alone is too wide."""
    measure = typeface.load(font, size).getlength
    lines, line = [], ""
    for piece in _unbroken(text):
        if not line:
            piece = piece.lstrip()
        if measure((line + piece).rstrip()) <= width:
            line += piece
            continue
        if line:
            lines.append(line.rstrip())
        line = piece.lstrip()
        if measure(line.rstrip()) > width:
            return None
    return (*lines, line.rstrip()) if line.strip() else tuple(lines)


def fit(
    text: str,
    font: str,
    *,
    height: int,
    width: int,
    largest: int,
    spacing: tuple[float, float] = (SPACING, SPACING),
    align: Align = "left",
) -> Paragraph | None:
    """The paragraph at the largest size that fits, with a margin of half an em; None where not even 8 pixels fit.

    ``spacing``: least and most, in ems; the least decides the size, and what is left of the height opens the lines.
    """
    least, most = spacing
    low, high = SMALLEST, max(min(largest, height), SMALLEST)
    best: Paragraph | None = None
    while low <= high:
        size = (low + high) // 2
        lines = wrap(text, font, size, width - size)
        if lines and line_step(size, least) * len(lines) + size // 2 <= height:
            best = Paragraph(lines=lines, font=font, size=size, height=height, width=width, spacing=least, align=align)
            low = size + 1
        else:
            high = size - 1
    if best is None or most == least:
        return best
    room = (height - best.size // 2) / (best.size * len(best.lines)) - 0.5 / best.size  # a step is rounded
    return evolve(best, spacing=min(max(room, least), most))


def _unbroken(text: str) -> Iterator[str]:
    """Pieces between which a line may break; white space stands at the beginning of a piece."""
    held = ""
    for piece in _PIECES.findall(text):
        if held.strip() and piece[0] not in _CLOSING:
            yield held
            held = ""
        held += piece if not piece.isspace() else " "
    if held.strip():
        yield held
