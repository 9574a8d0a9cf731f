"""Colours: contrast as WCAG defines it, names in two languages, nearest names."""

from __future__ import annotations

import pytest

from qi_core.colours import CHINESE, NAMED, contrast, nearest


def test_contrast_is_that_of_wcag() -> None:
    assert contrast((0, 0, 0), (255, 255, 255)) == pytest.approx(21.0)
    assert contrast((119, 119, 119), (255, 255, 255)) == pytest.approx(4.48, abs=0.01)  # WCAG's known border case
    assert contrast((9, 8, 7), (9, 8, 7)) == 1.0


def test_contrast_does_not_depend_on_the_order() -> None:
    assert contrast(NAMED["red"], NAMED["cyan"]) == contrast(NAMED["cyan"], NAMED["red"])


def test_every_colour_has_a_chinese_name_of_its_own() -> None:
    assert CHINESE.keys() == NAMED.keys()
    assert len(set(CHINESE.values())) == len(NAMED)


def test_each_named_colour_is_nearest_to_itself_even_under_some_noise() -> None:
    for name, colour in NAMED.items():
        assert nearest(colour) == name
        assert nearest([value + 15 for value in colour]) == name
        assert nearest([value - 15 for value in colour]) == name
