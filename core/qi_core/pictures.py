"""Pictures for people: tensors as images, contact sheets with captions, files. No torch here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from qi_core import typeface
from qi_core.errors import QiError
from qi_core.files import write_whole

if TYPE_CHECKING:
    from torch import Tensor

    from qi_core.tracker import Picture

SMALL, LARGE = 160, 512
"""Pixels: in a sheet, smaller pictures are enlarged by a whole factor and larger ones shrunk, by their longer side."""
GAP = 8
TEXT_SIZE = 14
TEXT_LINES = 3
PAPER, INK = (250, 250, 250), (20, 20, 20)


def to_image(picture: Tensor) -> Image.Image:
    """(3, H, W) or (4, H, W) float in [-1, 1] -> an RGB or RGBA image; values beyond the range are clamped."""
    if picture.ndim != 3 or picture.shape[0] not in (3, 4):
        raise QiError(f"a picture of shape {tuple(picture.shape)}; wanted (3, H, W) or (4, H, W)")
    values = np.nan_to_num(picture.detach().float().cpu().numpy())
    pixels = np.round((np.clip(values, -1.0, 1.0) + 1.0) * 127.5).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))


def picture_grid(pictures: Sequence[Picture], columns: int = 0) -> Image.Image:
    """A contact sheet, captions beneath. ``columns``: 0 makes the sheet about 4 wide to 3 high."""
    if not pictures:
        raise QiError("a sheet of no pictures; wanted at least one")
    images = _scaled([to_image(picture.image) for picture in pictures])
    wide, high = max(max(image.width for image in images), 96), max(image.height for image in images)
    captions = [caption_lines(picture.caption, wide) for picture in pictures]
    step = round(TEXT_SIZE * 1.3)
    text = step * max(len(lines) for lines in captions)
    cell_wide, cell_high = wide + GAP, high + text + GAP
    columns = columns or min(max(round(math.sqrt(len(images) * cell_high / cell_wide * 4 / 3)), 1), len(images))
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * cell_wide + GAP, rows * cell_high + GAP), PAPER)
    draw = ImageDraw.Draw(sheet)
    font = typeface.load(typeface.SHIPPED, TEXT_SIZE)
    for index, (image, lines) in enumerate(zip(images, captions, strict=True)):
        left, top = GAP + index % columns * cell_wide, GAP + index // columns * cell_high
        sheet.paste(image, (left, top), image if image.mode == "RGBA" else None)
        for row, line in enumerate(lines):
            draw.text((left, top + high + (row + 1) * step - 4), line, font=font, fill=INK, anchor="ls")
    return sheet


def caption_lines(text: str, width: int) -> list[str]:
    """At most three lines no wider than so many pixels; broken at a space where there is one, cut with "…"."""
    measure = typeface.load(typeface.SHIPPED, TEXT_SIZE).getlength
    rest, lines = " ".join(text.split()), list[str]()
    while rest and len(lines) < TEXT_LINES:
        end = len(rest)
        while end > 1 and measure(rest[:end]) > width:
            end -= 1
        if end < len(rest):
            space = rest.rfind(" ", 0, end + 1)
            end = space if space > 0 else end
        lines.append(rest[:end])
        rest = rest[end:].lstrip()
    if rest:
        last = lines[-1]
        while last and measure(last + "…") > width:
            last = last[:-1]
        lines[-1] = last + "…"
    return lines


def save_png(image: Image.Image, path: Path) -> None:
    """Write a PNG, whole or not at all."""
    buffer = BytesIO()
    image.save(buffer, format="PNG")
    write_whole(path, buffer.getvalue())


def _scaled(images: Sequence[Image.Image]) -> list[Image.Image]:
    """All by one factor, so that sizes stay comparable."""
    longest = max(max(image.size) for image in images)
    if longest > LARGE:
        return [
            image.resize(
                (max(image.width * LARGE // longest, 1), max(image.height * LARGE // longest, 1)),
                Image.Resampling.LANCZOS,
            )
            for image in images
        ]
    factor = max(-(-SMALL // longest), 1)
    return [image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST) for image in images]
