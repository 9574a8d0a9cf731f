"""What filters found as one HTML page: no script, no style, no picture from elsewhere."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from attrs import frozen

from qi_registry.judged import Found, Step

TEMPLATE = Path(__file__).with_name("data_report.html.jinja")
BINS = 48
WIDTH, HEIGHT = 560, 150
"""Of a histogram, in units of its drawing."""
SKEWED = 30.0
"""From where the value that 99 % stay below, by the median (or 1, if that is more), asks for a scale of powers."""


@frozen(kw_only=True)
class Bin:
    """A bar of a histogram, in units of the drawing."""

    x: float
    width: float
    y: float
    height: float
    refused: bool
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


def page(found: Found) -> str:
    """The page."""
    from jinja2 import Environment, StrictUndefined, select_autoescape

    environment = Environment(
        autoescape=select_autoescape(default=True, default_for_string=True), undefined=StrictUndefined
    )
    filters: dict[str, Any] = environment.filters
    filters |= {"share": _share, "number": "{:,}".format, "value": _told}
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    drawings = {step.label: histogram(step) for step in found.funnel}
    return template.render(found=found, drawings=drawings, width=WIDTH, height=HEIGHT)


def histogram(step: Step) -> Histogram | None:
    """None where nothing was measured."""
    values = sorted(value for value in step.values if math.isfinite(value))
    if not values:
        return None
    bounds = [bound for bound in (step.least, step.most) if bound is not None]
    skewed = values[0] >= 0 and _at(values, 0.99) > SKEWED * max(_at(values, 0.5), 1.0)
    low, high = min(values[0], *bounds, *values[:1]), max(values[-1], *bounds, *values[:1])
    place = _scale(low, high, skewed)
    counts = [0] * BINS
    for value in values:
        counts[min(int(place(value) / WIDTH * BINS), BINS - 1)] += 1
    edges = [_value(low, high, skewed, number / BINS) for number in range(BINS + 1)]
    top = max(counts)
    bins = [
        Bin(
            x=number * WIDTH / BINS,
            width=WIDTH / BINS - 1,
            y=HEIGHT * (1 - count / top),
            height=HEIGHT * count / top,
            refused=_refused(step, (edges[number] + edges[number + 1]) / 2),
            told=f"{edges[number]:.4g} to {edges[number + 1]:.4g}: {count:,}",
        )
        for number, count in enumerate(counts)
        if count
    ]
    ticks = [(number / 4 * WIDTH, f"{_value(low, high, skewed, number / 4):.3g}") for number in range(5)]
    return Histogram(bins=bins, marks=[(place(bound), f"{bound:g}") for bound in bounds], ticks=ticks, skewed=skewed)


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
    return f"{100 * part / whole:.1f} %" if whole else "-"


def _told(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
