"""Buckets by ratio, and the exact sizes that a model was finished with."""

from __future__ import annotations

import pytest

from qi_core import QiError
from qi_core.sizes import Size, nearest, shaped, some_ratios

RELEASED = ("1328x1328", "1664x928", "928x1664", "1472x1104", "1104x1472", "1584x1056", "1056x1584")
"""QwenLM/Qwen-Image, issue 7."""


def test_a_size_is_taken_as_it_is_and_a_ratio_at_the_area() -> None:
    buckets = [shaped(text, 1328**2, 16) for text in RELEASED]
    assert buckets[1] == Size(height=928, width=1664)
    assert nearest(buckets, Size(height=1080, width=1920)) == Size(height=928, width=1664)
    assert nearest(buckets, Size(height=1500, width=1000)) == Size(height=1584, width=1056)
    assert shaped("16:9", 1328**2, 16) == Size(height=992, width=1776)


def test_what_is_neither_or_off_the_grid_is_told() -> None:
    some_ratios(None, None, (*RELEASED, "16:9"))
    for text in ("16-9", "0x16", "x", "1664x"):
        with pytest.raises(ValueError, match="is no ratio"):
            some_ratios(None, None, (text,))
    with pytest.raises(QiError, match="'1330x1328': both sides must be multiples of 16"):
        shaped("1330x1328", 1328**2, 16)
