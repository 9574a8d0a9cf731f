"""Paragraphs: wrapped where a line may break, as large as the picture allows, never cut."""

from __future__ import annotations

import numpy as np
import pytest

from qi_core import typeface
from qi_core.paragraph import Align, fit, line_step, wrap

FONT = typeface.SHIPPED


def test_latin_breaks_at_spaces_alone() -> None:
    lines = wrap("the quick brown fox", FONT, 16, 90)
    assert lines is not None
    assert len(lines) > 1
    assert " ".join(lines) == "the quick brown fox"


def test_chinese_breaks_anywhere_but_before_closing_punctuation() -> None:
    text = "一二三四，五六七八。"
    for width in range(32, 170, 8):
        lines = wrap(text, FONT, 16, width)
        assert lines is not None
        assert "".join(lines) == text
        assert not any(line[0] in "，。" for line in lines)


def test_no_line_is_wider_than_the_picture() -> None:
    measure = typeface.load(FONT, 12).getlength
    lines = wrap("mixed 中文 and English 文字 in one paragraph，真的。", FONT, 12, 80)
    assert lines is not None
    assert max(measure(line) for line in lines) <= 80


def test_a_word_wider_than_the_picture_does_not_fit() -> None:
    assert wrap("incomprehensibilities", FONT, 16, 60) is None
    assert fit("incomprehensibilities " * 20, FONT, height=32, width=32, largest=32) is None


@pytest.mark.parametrize("text", ["Hi", "a sentence of some words", "中文段落，排成几行。" * 3])
def test_the_size_is_the_largest_that_fits(text: str) -> None:
    best = fit(text, FONT, height=64, width=128, largest=64)
    assert best is not None
    assert "".join(best.lines).replace(" ", "") == text.replace(" ", "")
    larger = wrap(text, FONT, best.size + 1, 128 - best.size - 1)
    assert larger is None or line_step(best.size + 1) * len(larger) + (best.size + 1) // 2 > 64


def test_nothing_is_cut_at_the_edges() -> None:
    best = fit("quick jumpy Éclair gypsy 中文", FONT, height=64, width=96, largest=64)
    assert best is not None
    mask = best.mask()
    assert mask.shape == (64, 96)
    assert mask.max() > 200
    assert not np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]]).any()


def test_the_largest_size_can_be_bounded() -> None:
    best = fit("Hi", FONT, height=64, width=128, largest=11)
    assert best is not None
    assert best.size == 11


def test_spacing_fills_the_height_within_its_bounds() -> None:
    text = "a few words that need more than one line"
    tight = fit(text, FONT, height=300, width=96, largest=20, spacing=(1.25, 1.25))
    loose = fit(text, FONT, height=300, width=96, largest=20, spacing=(1.25, 1.75))
    assert tight is not None
    assert loose is not None
    assert (loose.lines, loose.size) == (tight.lines, tight.size)
    assert loose.spacing == 1.75  # there is room for more
    close = fit(text, FONT, height=110, width=96, largest=20, spacing=(1.0, 3.0))
    assert close is not None
    step = line_step(close.size, close.spacing)
    assert close.spacing > 1.0
    assert step * len(close.lines) + close.size // 2 <= 110 < (step + 1) * len(close.lines) + close.size // 2


@pytest.mark.parametrize("align", ["left", "centre", "right"])
def test_lines_stand_at_their_edge(align: Align) -> None:
    best = fit("HH HHHHHH", FONT, height=64, width=96, largest=20, align=align)
    assert best is not None
    assert best.lines == ("HH", "HHHHHH")
    upper, lower = (np.flatnonzero(ink.any(axis=0)) for ink in np.vsplit(best.mask(), [32]))
    off = {
        "left": upper[0] - lower[0],
        "centre": upper[0] + upper[-1] - lower[0] - lower[-1],
        "right": upper[-1] - lower[-1],
    }
    assert abs(off[align]) <= 2
    assert all(abs(distance) > 8 for place, distance in off.items() if place != align)
