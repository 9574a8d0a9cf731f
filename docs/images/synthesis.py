"""Draws the pictures of docs/synthesis.md: python docs/images/synthesis.py"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from qi_core import Place
from qi_plugins.source_synthetic.component import ComposedText, Templates
from qi_plugins.source_text.component import RenderedText

HERE = Path(__file__).parent
GAP = 6
PARAGRAPHS = """The light of the morning lies on the water, and nobody is in a hurry.
清晨的阳光落在水面上，谁也不着急。
What is written here fits the picture, however long it is: letters become smaller and lines open up to fill the height.
这里的字会随画面大小而变化，行距也会随之调整。
"""


def sheet(component: Any, columns: int, rows: int, tall: int) -> Image.Image:
    """So many samples side by side, in rows of one height."""
    with tempfile.TemporaryDirectory() as folder:
        place = Place(device=torch.device("cpu"), dtype=torch.float32, seed=21, folder=Path(folder))
        samples = component.build(place, 16).draw(columns * rows)
    pictures = [Image.fromarray(sample.image.permute(1, 2, 0).numpy()) for sample in samples]
    pictures = [one.resize((round(one.width * tall / one.height), tall), Image.Resampling.LANCZOS) for one in pictures]
    lines = [pictures[row * columns : (row + 1) * columns] for row in range(rows)]
    width = max(sum(one.width + GAP for one in line) for line in lines) - GAP
    whole = Image.new("RGB", (width, rows * (tall + GAP) - GAP), "white")
    for row, line in enumerate(lines):
        left = 0
        for one in line:
            whole.paste(one, (left, row * (tall + GAP)))
            left += one.width + GAP
    return whole


def saved(picture: Image.Image, name: str) -> None:
    picture.quantize(160).save(HERE / name, optimize=True)


with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as lines:
    lines.write(PARAGRAPHS)
    lines.flush()
    pure = RenderedText(
        text=Path(lines.name),
        layout="paragraph",
        height=192,
        width=320,
        foreground=("black", "blue", "brown", "white"),
        background=("white", "yellow", "green", "purple"),
        contrast=4.5,
        aligns=("left", "centre", "right"),
        spacing=(1.15, 1.8),
        held_out=0.0,
    )
    saved(sheet(pure, 3, 2, 150), "synthesis-pure.png")
saved(sheet(ComposedText(side=512), 4, 2, 210), "synthesis-composed.png")
saved(sheet(Templates(side=640, ratios=("16:9",)), 3, 2, 180), "synthesis-slides.png")
saved(sheet(Templates(side=640, ratios=("9:16",)), 6, 1, 300), "synthesis-screens.png")
