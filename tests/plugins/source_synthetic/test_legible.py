"""What ``composed-text`` and ``templates`` write can be read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from qi_core import Place
from qi_plugins.source_synthetic.component import ComposedText, Templates


def read(text: str, lines: list[str]) -> bool:
    """Whether a string is what some of the lines say: nine of ten of its characters, however it was wrapped."""
    left = length = len(flat(text))
    rest = flat(text)
    for line in sorted(map(flat, lines), key=len, reverse=True):
        rest = rest.replace(line, "", 1) if line else rest
        left = len(rest)
    return left <= 0.1 * length


def flat(text: str) -> str:
    return "".join(text.split()).lower()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("component", "count"),
    [(ComposedText(side=512, objects=(1, 3)), 9), (Templates(side=512, ratios=("4:3", "3:4")), 5)],
    ids=["composed-text", "templates"],
)
def test_nine_strings_of_ten_can_be_read_at_512_pixels(component: Any, count: int, tmp_path: Path) -> None:
    pytest.importorskip("rapidocr")
    from qi_core.ocr import Engine, Plainly

    reader = Engine(Plainly(side=512), "a test")
    place = Place(device=torch.device("cpu"), dtype=torch.float32, seed=4, folder=tmp_path)
    found = []
    for sample in component.build(place, 16).draw(count):
        lines = [line.text for line in reader.lines(sample.image.permute(1, 2, 0).numpy())]
        found += [read(text, lines) for text in sample.text.split("\n")]
    assert sum(found) >= 0.9 * len(found)
