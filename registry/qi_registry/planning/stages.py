"""The stages of a recipe's curriculum as a table, as lines of text and as a picture (SVG)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

from attrs import field, frozen

from qi_core.curriculum import Curriculum, State
from qi_core.errors import QiError
from qi_core.files import write_whole
from qi_registry.curricula import Unfolding, weights
from qi_registry.planning.jobs import sides
from qi_registry.recipe import Recipe
from qi_registry.tables import print_table

POINTS = 400
"""Steps that a curve is drawn through."""
COLUMNS = 64
"""Characters of a line of text."""
BARS = " ▁▂▃▄▅▆▇█"
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#999999")
"""Told apart by people who see colours differently (Okabe and Ito 2008, "Color Universal Design")."""


@frozen(kw_only=True)
class Scheme:
    """A curriculum over the steps of its run."""

    name: str
    steps: int
    plan: Curriculum
    recipes: tuple[Recipe, ...]
    """What is in effect when each stage's transition is over."""
    own: dict[str, float] = field(factory=dict)
    """Weights that the source has by itself."""

    def state(self, step: int) -> State:
        return self.plan.at(min(step, self.steps - 1))

    def shares(self, step: int) -> dict[str, float]:
        """Of the source's parts, together 1; empty where it has none."""
        found = dict(self.state(step).mixture) or self.own
        total = float(sum(found.values()))
        return {name: float(weight) / total for name, weight in found.items()} if total else {}

    @property
    def parts(self) -> list[str]:
        """Names of all parts that ever give something, in their order."""
        return list(dict.fromkeys(name for step in self.sampled(POINTS) for name in self.shares(step)))

    def sampled(self, count: int) -> list[int]:
        """Steps at equal distances, each stage's first and last among them."""
        found = {round(i * (self.steps - 1) / max(count - 1, 1)) for i in range(count)}
        for span in self.plan.spans():
            found |= {span.begin - 1, span.begin, span.begin + span.transition}
        return sorted(step for step in found if 0 <= step < self.steps)


def scheme(recipe: Recipe) -> Scheme | None:
    """The recipe's, if it has a curriculum."""
    here = Unfolding.of(recipe)
    plan = here.curriculum
    if plan is None:
        return None
    recipes: list[Recipe] = []
    for span in plan.spans():
        over = span.begin + span.transition
        here = here.to(over if span.end is None else min(over, span.end - 1))
        recipes.append(here.recipe)
    own = dict(weights(recipe))
    return Scheme(name=recipe.name, steps=recipe.train.steps, plan=plan, recipes=tuple(recipes), own=own)


def all_sides(drawn: Scheme) -> tuple[int, ...]:
    """Of pictures in any stage."""
    return tuple(sorted({side for recipe in drawn.recipes for side in sides(recipe)[0]}))


def tell(drawn: Scheme) -> None:
    """Print the table, and how the mixture goes."""
    rows = [_row(drawn, number) for number in range(len(drawn.recipes))]
    print_table(["stage", "steps", "a batch", "mixture", "pictures", "lr x", "shift", "from then on"], rows)
    names = drawn.parts
    wide = max(map(len, [*names, "lr"]), default=0)
    steps = [round(i * (drawn.steps - 1) / (COLUMNS - 1)) for i in range(COLUMNS)]
    for name in names if len(names) > 1 else ():
        print(f"{name:<{wide}} |{_line([drawn.shares(step).get(name, 0.0) for step in steps], 1.0)}|")
    rates = [drawn.state(step).lr for step in steps]
    print(f"{'lr':<{wide}} |{_line(rates, max(rates))}|")
    print(f"{'':<{wide}}  0{f'step {drawn.steps}':>{COLUMNS - 1}}\n")


def _row(drawn: Scheme, number: int) -> list[str]:
    span, recipe = drawn.plan.spans()[number], drawn.recipes[number]
    end = drawn.steps if span.end is None else min(span.end, drawn.steps)
    settled = drawn.plan.at(min(span.begin + span.transition, max(end - 1, span.begin)))
    before = drawn.plan.at(span.begin - 1).settings if span.begin else ()
    found = dict(settled.mixture) or drawn.own
    total = float(sum(found.values()))
    steps = f"{span.begin} to {end}" if end > span.begin else "never: the run is too short"
    return [
        span.stage,
        steps + (f", the first {span.transition} in transition" if span.transition else ""),
        f"{settled.tokens} tokens" if settled.tokens else f"{recipe.train.batch} samples",
        ", ".join(f"{name} {float(weight) / total:.3g}" for name, weight in found.items() if weight) or "one source",
        _pictures(recipe),
        f"{settled.lr:g}",
        settled.shift if isinstance(settled.shift, str) else "" if settled.shift is None else f"{settled.shift:g}",
        "; ".join(line for line in settled.settings if line not in before),
    ]


def _line(heights: Sequence[float], most: float) -> str:
    """A curve in characters."""
    top = len(BARS) - 1
    return "".join(BARS[round(top * height / most) if most else 0] for height in heights)


def _pictures(recipe: Recipe) -> str:
    """Their sides, where the source tells them."""
    found, unknown = sides(recipe)
    return "" if unknown else "/".join(map(str, found)) + " px"


# --- the picture -----------------------------------------------------------------------------------------------------

WIDE, LEFT, RIGHT = 900, 70, 200
AREA = (50, 230)
"""Top and bottom of the stacked shares, in pixels."""
RATE, TIMES = (262, 332), (364, 434)
"""Of the two curves."""
HIGH = 480
ROW = 15
"""Pixels between names of stages that would cover each other side by side."""


def draw(drawn: Scheme, path: Path) -> None:
    """Write the picture. Raises QiError where that can't be."""
    if path.suffix != ".svg":
        raise QiError(f"--picture {path}: pictures of a plan are SVG; wanted a name that ends in .svg")
    write_whole(path, svg(drawn).encode())


def svg(drawn: Scheme) -> str:
    """Shares of the parts as stacked areas over the steps, the learning rate's factor and the shift beneath, a line
    where a stage begins."""
    steps = drawn.sampled(POINTS)
    labels = _labels(drawn)
    above = ROW * max((row for _, _, row in labels), default=0)
    body = [*_areas(drawn, steps), *_borders(labels), _text(LEFT, 20 - above, "mixture", weight="bold")]
    body += _curve(drawn, steps, RATE, "learning rate x", lambda state: state.lr)
    if any(isinstance(drawn.state(step).shift, float) for step in steps):
        body += _curve(drawn, steps, TIMES, "shift", lambda s: s.shift if isinstance(s.shift, float) else None)
    ticks = [round(i * drawn.steps / 5) for i in range(6)]
    body += [_text(_x(drawn, step), HIGH - 14, f"{step:,}", "middle") for step in ticks]
    body.append(_text(WIDE - RIGHT + 16 + 4 * len(f"{drawn.steps:,}"), HIGH - 14, "steps"))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 {-above} {WIDE} {HIGH + above}" font-family="sans-serif" '
        f'font-size="12">\n<title>{escape(drawn.name)}: the stages of its curriculum</title>\n'
        f'<rect y="{-above}" width="100%" height="100%" fill="white"/>\n' + "\n".join(body) + "\n</svg>\n"
    )


def _x(drawn: Scheme, step: int) -> float:
    return LEFT + (WIDE - LEFT - RIGHT) * step / max(drawn.steps, 1)


def _y(place: tuple[int, int], part: float) -> float:
    """``part``: 0 at the bottom, 1 at the top."""
    top, bottom = place
    return bottom - (bottom - top) * part


def _areas(drawn: Scheme, steps: Sequence[int]) -> list[str]:
    names = drawn.parts or ["the source"]
    below = dict.fromkeys(steps, 0.0)
    found: list[str] = []
    for number, name in enumerate(names):
        above = {step: below[step] + (drawn.shares(step).get(name, 0.0) if drawn.parts else 1.0) for step in steps}
        edge = [(_x(drawn, step), _y(AREA, above[step])) for step in steps]
        edge += [(_x(drawn, step), _y(AREA, below[step])) for step in reversed(steps)]
        colour, row = COLOURS[number % len(COLOURS)], AREA[0] + min(18, (RATE[0] - AREA[0]) / len(names)) * number
        found.append(f'<polygon points="{_points(edge)}" fill="{colour}" fill-opacity="0.85"/>')
        found.append(f'<rect x="{WIDE - RIGHT + 16}" y="{row:g}" width="12" height="12" fill="{colour}"/>')
        found.append(_text(WIDE - RIGHT + 34, row + 11, _cut(name, RIGHT - 38)))
        below = above
    found += [_text(LEFT - 8, _y(AREA, share) + 4, f"{share:.0%}", "end") for share in (0.0, 0.5, 1.0)]
    return found


def _labels(drawn: Scheme) -> list[tuple[float, str, int]]:
    """Of the stages, from the last to the first: where each begins, its name, and in which row, from below. One that is
    longer than its stage stands above those that follow, so that neither they nor their lines cover it."""
    found: list[tuple[float, str, int]] = []
    for span, recipe in reversed(list(zip(drawn.plan.spans(), drawn.recipes, strict=True))):
        if span.begin < drawn.steps:
            x, pictures = _x(drawn, span.begin), _pictures(recipe)
            words = _cut(f"{span.stage} ({pictures})" if pictures else span.stage, WIDE - x - 4)
            end = x + _length(words) + 8
            found.append((x, words, max((row + 1 for other, _, row in found if other < end), default=0)))
    return found


def _borders(labels: Sequence[tuple[float, str, int]]) -> list[str]:
    found: list[str] = []
    for x, words, row in labels:
        y = 42 - ROW * row
        found.append(
            f'<line x1="{x:.1f}" y1="{y - 12}" x2="{x:.1f}" y2="{TIMES[1]}" stroke="black" stroke-dasharray="4 3" '
            'stroke-width="0.8"/>'
        )
        found.append(_text(x + 4, y, words))
    return found


def _curve(
    drawn: Scheme, steps: Sequence[int], place: tuple[int, int], name: str, value: Callable[[State], float | None]
) -> list[str]:
    known = [(step, height) for step in steps if (height := value(drawn.state(step))) is not None]
    most = max((height for _, height in known), default=0.0) or 1.0
    line = [(_x(drawn, step), _y(place, height / most)) for step, height in known]
    right = WIDE - RIGHT
    return [
        f'<rect x="{LEFT}" y="{place[0]}" width="{right - LEFT}" height="{place[1] - place[0]}" fill="none" '
        'stroke="#cccccc"/>',
        f'<polyline points="{_points(line)}" fill="none" stroke="black" stroke-width="1.5"/>',
        _text(right + 16, place[0] + 12, name),
        *(_text(LEFT - 8, _y(place, part) + 4, f"{most * part:g}", "end") for part in (0.0, 1.0)),
    ]


def _points(places: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)


def _length(words: str) -> float:
    """About so many pixels."""
    return sum(12.0 if ord(letter) > 0x2E7F else 7.0 for letter in words)


def _cut(words: str, room: float) -> str:
    """As much as there is room for."""
    if _length(words) <= room:
        return words
    while words and _length(words) + 12 > room:
        words = words[:-1]
    return words + "…"


def _text(x: float, y: float, words: str, anchor: str = "start", weight: str = "normal") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}">{escape(words)}</text>'
