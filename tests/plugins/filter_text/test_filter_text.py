"""Filters of text in pictures, with the real reader."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw

from qi_core import Place, Sample, typeface
from qi_core.ocr import Plainly, shared
from qi_core.testing import check_component, check_filter
from qi_plugins.filter_text.component import SmallText, TextDensity

pytest.importorskip("rapidocr")
PLACE = Place(device=torch.device("cpu"), dtype=torch.float32, seed=5, folder=Path())


def page(*lines: tuple[str, int], side: int = 384) -> Sample:
    """Lines with their size in pixels, one below the other."""
    import numpy as np

    image, top = Image.new("RGB", (side, side), (240, 240, 230)), 16
    for text, em in lines:
        ImageDraw.Draw(image).text((16, top), text, font=typeface.load(typeface.SHIPPED, em), fill=(20, 20, 60))
        top += 2 * em
    return Sample(key="page", prompt="", image=torch.from_numpy(np.array(image)).permute(2, 0, 1))


BARE = page()
TITLE = page(("Open at nine", 40))
PRINT = page(("Open at nine", 40), ("terms and conditions apply to all", 16))
FULL = page(*((f"many lines of text {n}", 30) for n in range(6)))


def test_components() -> None:
    for component in (TextDensity, SmallText):
        check_component(component)
    check_filter(TextDensity(side=384), samples=[BARE, TITLE])


def test_density_is_the_share_of_the_picture_that_text_takes() -> None:
    live = TextDensity(side=384, least=0.01, most=0.2).build(PLACE)
    values = [live.measure(sample) for sample in (BARE, TITLE, FULL)]
    assert values[0] == 0.0
    assert 0.08 < values[1] < 0.15
    assert values[2] > 0.25
    assert [live.refuses(value) for value in values] == ["too little text", "", "too much text"]


def test_the_smallest_line_counts_unless_it_is_small_print() -> None:
    live = SmallText(side=384, least=30).build(PLACE)
    values = [live.measure(sample) for sample in (BARE, TITLE, PRINT)]
    assert math.isnan(values[0])
    assert values[1] == pytest.approx(1.4 * 40, rel=0.15)
    assert values[2] == pytest.approx(1.4 * 16, rel=0.2)
    assert [live.refuses(value) for value in values] == ["", "", "text too small"]
    past = SmallText(side=384, least=30, share=0.8).build(PLACE)
    assert past.refuses(past.measure(PRINT)) == ""


def test_filters_that_agree_read_a_picture_once(monkeypatch: pytest.MonkeyPatch) -> None:
    readers = shared(Plainly(side=384), 1)
    density, small = TextDensity(side=384).build(PLACE), SmallText(side=384).build(PLACE)
    other = page(("Never seen before", 36))
    density.measure(other)
    monkeypatch.setattr(readers, "_free", None)  # whoever would read again fails
    assert small.measure(other) > 20
