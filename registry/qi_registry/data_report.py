"""What filters found as one HTML page: no script, no style, no picture from elsewhere."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import frozen

from qi_registry.judged import Found, Step

TEMPLATE = Path(__file__).with_name("data_report.html.jinja")
BINS = 48
WIDTH, HEIGHT = 560, 150
"""Of a histogram, in units of its drawing."""
CATEGORIES = 30
"""That are shown at once: the most frequent ones."""
SKEWED = 30.0
"""From where the value that 99 % stay below, by the median (or 1, if that is more), asks for a scale of powers."""


@frozen(kw_only=True)
class Bin:
    """A bar of a histogram, in units of the drawing."""

    x: float
    width: float
    kept: float
    refused: float
    """Heights: the latter stands on the former."""
    told: str
    """What stands there when it is pointed at."""


@frozen(kw_only=True)
class Histogram:
    """A drawing."""

    bins: Sequence[Bin]
    marks: Sequence[tuple[float, str]]
    """Thresholds: place and value."""
    ticks: Sequence[tuple[float, str]]
    skewed: bool
    spread: tuple[float, float, float]
    """The values that 1, 50 and 99 % stay below."""


def page(found: Found) -> str:
    """The page."""
    from jinja2 import Environment, StrictUndefined, select_autoescape

    environment = Environment(
        autoescape=select_autoescape(default=True, default_for_string=True), undefined=StrictUndefined
    )
    filters: dict[str, Any] = environment.filters
    filters |= {"share": _share, "number": "{:,}".format, "value": _told, "by_value": _by_value}
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        found=found,
        drawings={step.label: histogram(step) for step in found.funnel},
        categories=sorted(found.categories.items(), key=lambda each: (-each[1][0], each[0])),
        shown=CATEGORIES,
        width=WIDTH,
        height=HEIGHT,
    )


def histogram(step: Step) -> Histogram | None:
    """None where nothing was measured."""
    values = sorted(value for value in step.values if math.isfinite(value))
    if not values:
        return None
    bounds = [bound for bound in (step.least, step.most) if bound is not None]
    skewed = values[0] >= 0 and _at(values, 0.99) > SKEWED * max(_at(values, 0.5), 1.0)
    low, high = min(values[0], *bounds, *values[:1]), max(values[-1], *bounds, *values[:1])
    place = _scale(low, high, skewed)
    counts, refused = [0] * BINS, [0] * BINS
    for value in values:
        number = min(int(place(value) / WIDTH * BINS), BINS - 1)
        counts[number] += 1
        refused[number] += _refused(step, value)
    edges = [_value(low, high, skewed, number / BINS) for number in range(BINS + 1)]
    top = max(counts)
    bins = [
        Bin(
            x=number * WIDTH / BINS,
            width=WIDTH / BINS - 1,
            kept=HEIGHT * (count - refused[number]) / top,
            refused=HEIGHT * refused[number] / top,
            told=f"{_told(edges[number])} to {_told(edges[number + 1])}: {count:,}"
            + (f", {refused[number]:,} beyond the bar" if refused[number] else ""),
        )
        for number, count in enumerate(counts)
        if count
    ]
    ticks = [(number / 4 * WIDTH, _short(_value(low, high, skewed, number / 4), 3)) for number in range(5)]
    marks = [(place(bound), _told(bound)) for bound in bounds]
    spread = (_at(values, 0.01), _at(values, 0.5), _at(values, 0.99))
    return Histogram(bins=bins, marks=marks, ticks=ticks, skewed=skewed, spread=spread)


def _refused(step: Step, value: float) -> bool:
    return (step.least is not None and value < step.least) or (step.most is not None and value > step.most)


def _at(values: Sequence[float], share: float) -> float:
    return values[min(int(share * len(values)), len(values) - 1)]


def _scale(low: float, high: float, skewed: bool) -> Callable[[float], float]:
    """Value -> place. On a scale of powers, log(1 + value)."""
    start, end = (math.log1p(max(low, 0)), math.log1p(high)) if skewed else (low, high)

    def place(value: float) -> float:
        at = math.log1p(max(value, 0)) if skewed else value
        return WIDTH * (at - start) / (end - start) if end > start else WIDTH / 2

    return place


def _value(low: float, high: float, skewed: bool, share: float) -> float:
    if skewed and high > low:
        start, end = math.log1p(max(low, 0)), math.log1p(high)
        return math.expm1(start + share * (end - start))
    return low + share * (high - low)


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f}\u00a0%" if whole else "-"


def _by_value(eyes: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """From low to high, so that it shows where a threshold would cut."""
    return sorted(eyes, key=lambda eye: math.inf if eye.get("value") is None else eye["value"])


def _told(value: float | None) -> str:
    return "-" if value is None else _short(value, 4)


def _short(value: float, digits: int) -> str:
    """So many digits count; thousands are written out."""
    return f"{float(f'{value:.{digits}g}'):,.0f}" if 1000 <= abs(value) < 1e9 else f"{value:.{digits}g}"
