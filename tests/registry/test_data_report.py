"""The page of a report: bars are of the colour of what was decided, and what is long is folded."""

from __future__ import annotations

from typing import Any

from qi_registry.data_report import CATEGORIES, HEIGHT, histogram, page
from qi_registry.judged import Found, Step


def step(values: list[float], **settings: Any) -> Step:
    return Step(label="measure", values=values, came=len(values), **settings)


def test_a_value_on_the_bar_is_kept_and_a_bin_that_the_bar_cuts_shows_both() -> None:
    drawn = histogram(step([0.0] * 9 + [1.0], most=0.0))
    assert drawn is not None
    assert [(bin.kept, round(bin.refused)) for bin in drawn.bins] == [(HEIGHT, 0), (0, round(HEIGHT / 9))]
    cut = histogram(step([0.0, 49.5, 50.0, 50.5, 100.0], least=50.2))
    assert cut is not None
    assert [(bin.kept, bin.refused) for bin in cut.bins] == [(0, 75), (0, 75), (75, 75), (75, 0)]
    assert cut.spread == (0.0, 50.0, 100.0)
    assert [told for _, told in cut.ticks] == ["0", "25", "50", "75", "100"]


def test_large_values_are_written_out() -> None:
    drawn = histogram(step([1234.0, 56789.0], least=20000.0))
    assert drawn is not None
    assert [told for _, told in drawn.marks] == ["20,000"]
    assert drawn.ticks[0][1] == "1,230"
    assert histogram(step([])) is None


def test_many_categories_and_long_captions_are_folded_and_pictures_stand_from_low_to_high() -> None:
    eyes = [
        {"jpeg": "", "key": f"people/{value}.png", "value": value, "reason": "", "prompt": prompt, "category": "people"}
        for value, prompt in ((3.0, "short"), (None, "nothing said"), (1.0, "long " * 40))
    ]
    found = Found(what="x", funnel=[step([1.0, 3.0], kept_eyes=eyes)], samples=3, kept=3)
    found.categories = {f"c{number:03}": (number, number) for number in range(CATEGORIES + 5)}
    text = page(found)
    assert text.count("<details>") == 2
    assert "5 more, each of 4\nsamples or fewer" in text
    assert text.index("people/1.0.png") < text.index("people/3.0.png") < text.index("people/None.png")
    assert " · people" not in text, "what the key says is not said again"
