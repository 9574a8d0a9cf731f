"""Tables and charts of templates. No torch here."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from attrs import frozen

from qi_core.colours import RGB
from qi_core.strings import pick
from qi_plugins.source_synthetic.sheet import Box
from qi_plugins.source_synthetic.telling import Told
from qi_plugins.source_synthetic.template import Element

if TYPE_CHECKING:
    from qi_plugins.source_synthetic.filling import Filler


def table(filler: Filler, element: Element, box: Box, path: str) -> Told:
    """A head, and rows of which each column keeps to one format. The head says what columns are called."""
    rows, columns = filler.count(element.items), filler.count(element.columns)
    says = [element.say, *(element.says[pick(filler.dice, len(element.says))] for _ in range(columns - 1))]
    row = min(box[3] / (rows + 1), 2.6 * element.size * filler.short)
    first = 1.4 / (columns + 0.4)  # what rows are called needs more room than numbers
    edges = [0.0, *(first + place * (1 - first) / max(columns - 1, 1) for place in range(columns))]
    edges[-1] = 1.0
    pad = round(0.012 * filler.short)
    groups: list[tuple[str, ...]] = []
    for line in range(rows + 1):
        top, bottom = box[1] + round(line * row), box[1] + round((line + 1) * row)
        ground = "accent" if line == 0 else "soft" if line % 2 else ""
        if ground:
            filler.sheet.box((box[0], top, box[2], bottom - top), filler.palette[ground])
        colour = "on_accent" if line == 0 else "on_soft" if ground else "ink"
        cells: list[str] = []
        for column, say in enumerate(says):
            left, right = (box[0] + round(edges[column + side] * box[2]) for side in (0, 1))
            cell = (left + pad, top, max(right - left - 2 * pad, 1), bottom - top)
            cells.append(
                filler.write(
                    element,
                    cell,
                    path,
                    say=say if line else "figure" if column else "column",
                    align="left" if column == 0 else "right",
                    colour=colour,
                    bold=line == 0,
                )
            )
        groups.append(tuple(cells))
    under = (box[0], box[1] + round((rows + 1) * row) - 1, box[2], max(1, filler.short // 300))
    filler.sheet.box(under, filler.palette["line"])
    return Told(kind="table", groups=tuple(groups), box=box)


@frozen(kw_only=True)
class _Values:
    """What a chart shows, and where its parts stand."""

    numbers: list[int]
    texts: list[str]
    most: int


def chart(filler: Filler, element: Element, box: Box, path: str) -> Told:
    """Columns, bars, a line or a pie, with labels, and but for the pie with values."""
    kind = element.charts[pick(filler.dice, len(element.charts))]
    count = filler.count(element.items)
    if kind == "pie":
        return _pie(filler, element, box, path, count)
    numbers = [filler.vocabulary.amount(filler.dice) for _ in range(count)]
    values = _Values(numbers=numbers, texts=[str(number) for number in numbers], most=max(numbers))
    draw = _bars if kind == "bars" else _upright
    labels = draw(filler, element, box, path, values, kind)
    groups = tuple(zip(labels, values.texts, strict=True))
    return Told(kind=kind, groups=groups, box=box)


def _upright(filler: Filler, element: Element, box: Box, path: str, values: _Values, kind: str) -> list[str]:
    """Columns, or points of a line, over labels."""
    count, letters = len(values.numbers), 1.6 * max(element.size * filler.short, filler.smallest)
    step, base = box[2] / count, round(box[1] + box[3] - letters)
    room = base - box[1] - letters
    labels: list[str] = []
    points: list[tuple[float, float]] = []
    accent = filler.palette["accent"]
    for place, (number, text) in enumerate(zip(values.numbers, values.texts, strict=True)):
        left, right = round(box[0] + place * step), round(box[0] + (place + 1) * step)
        tall = round(room * (0.1 + 0.9 * number / values.most))
        if kind == "columns":
            thick = max(round(0.6 * step), 1)
            filler.sheet.box((left + round(0.2 * step), base - tall, thick, tall), accent)
        points.append(((left + right) / 2 - box[0], base - tall - box[1]))
        under = (left + 1, base, right - left - 2, round(letters))
        labels.append(filler.write(element, under, f"{path}/label", align="centre"))
        above = (left, round(base - tall - letters), right - left, round(0.95 * letters))
        filler.write(element, above, path, text=text, align="centre")
    thick = max(2, filler.short // 130)
    if kind == "line":
        filler.sheet.line(box, points, thick, accent)
        for x, y in points:
            spot = (round(box[0] + x) - 2 * thick, round(box[1] + y) - 2 * thick, 4 * thick, 4 * thick)
            filler.sheet.dot(spot, accent)
    filler.sheet.box((box[0], base, box[2], max(1, filler.short // 300)), filler.palette["line"])
    return labels


def _bars(filler: Filler, element: Element, box: Box, path: str, values: _Values, _: str) -> list[str]:
    """Lying bars, labels at their left, values at their right."""
    count = len(values.numbers)
    step = box[3] / count
    name, value = round(0.3 * box[2]), round(0.14 * box[2])
    labels: list[str] = []
    for place, (number, text) in enumerate(zip(values.numbers, values.texts, strict=True)):
        top, bottom = round(box[1] + place * step), round(box[1] + (place + 1) * step)
        long = round((box[2] - name - value) * (0.1 + 0.9 * number / values.most))
        filler.sheet.box(
            (box[0] + name, top + round(0.22 * step), long, max(round(0.56 * step), 1)), filler.palette["accent"]
        )
        pad = round(0.012 * filler.short)
        labels.append(filler.write(element, (box[0], top, name - pad, bottom - top), f"{path}/label", align="right"))
        filler.write(
            element, (box[0] + name + long + pad, top, value - pad, bottom - top), path, text=text, align="left"
        )
    return labels


def _pie(filler: Filler, element: Element, box: Box, path: str, count: int) -> Told:
    """A pie, and a legend at its right."""
    around = min(box[3], round(0.55 * box[2]))
    circle = (box[0], box[1] + (box[3] - around) // 2, around, around)
    weights = [1 + 3 * filler.dice.random() for _ in range(count)]
    angle, labels = -90.0, []
    row = min(around / count, 2.4 * element.size * filler.short)
    top = box[1] + round((box[3] - row * count) / 2)
    left = box[0] + around + round(0.06 * box[2])
    for place, weight in enumerate(weights):
        fill = _shade(filler.palette["accent"], filler.palette["ground"], place / count)
        end = angle + 360 * weight / math.fsum(weights)
        filler.sheet.slice(circle, angle, end, fill)
        angle, line = end, top + round(place * row)
        mark = max(round(0.4 * min(row, element.size * filler.short)), 3)
        filler.sheet.box((left, line + round((row - mark) / 2), mark, mark), fill)
        text = (left + 2 * mark, line, max(box[0] + box[2] - left - 2 * mark, 1), round(row))
        labels.append(filler.write(element, text, path, align="left"))
    return Told(kind="pie", groups=tuple((label,) for label in labels), box=box)


def _shade(one: RGB, other: RGB, share: float) -> RGB:
    red, green, blue = (round(a + 0.85 * share * (b - a)) for a, b in zip(one, other, strict=True))
    return red, green, blue
