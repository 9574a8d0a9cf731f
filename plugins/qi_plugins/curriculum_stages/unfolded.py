"""What holds at each step of a curriculum of stages. All exact: fractions of the numbers written."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from fractions import Fraction
from itertools import accumulate
from typing import TYPE_CHECKING, Any, TypeAlias

from attrs import evolve, field, frozen

from qi_core.curriculum import Outset, Span, State
from qi_core.settings import Shift

if TYPE_CHECKING:
    from qi_plugins.curriculum_stages.component import Stage, Stages

TREADS = 8
"""A threshold moves in so many steps of equal height: each is a new version of the data, for whoever makes it."""
GLIDES = "data.filters."
"""What of a stage's lines moves over a transition, where it is a number."""
Number: TypeAlias = int | float | Fraction


@frozen(kw_only=True)
class Held:
    """Where a stage is bound for, or what is reached of it."""

    mixture: Mapping[str, Fraction] = field(factory=dict)
    own: bool = True
    """No stage has said a mixture yet: it is the source's own."""
    tokens: int = 0
    lr: Fraction = Fraction(1)
    shift: Shift | Fraction | None = None
    lines: Mapping[str, str] = field(factory=dict)
    """Settings by their key, in the order in which they were said."""


class Unfolded:
    """The live curriculum."""

    def __init__(self, settings: Stages, outset: Outset) -> None:
        self._outset, self._stages, self._labels = outset, settings.stages, settings.labels
        lengths = [stage.steps for stage in settings.stages[:-1]]
        self._begins = [0, *accumulate(lengths)]
        self._from: list[Held] = []
        """What each stage begins from, and where it is bound."""
        self._to: list[Held] = []
        last = Held(mixture=_shares(outset.mixture), shift=_exact(outset.shift))
        for number, stage in enumerate(self._stages):
            self._from.append(last)
            self._to.append(self._bound(last, stage))
            last = self._reached(number, stage.steps)

    def at(self, step: int) -> State:
        number = bisect_right(self._begins, step) - 1
        held = self._reached(number, step - self._begins[number])
        return State(
            stage=self._labels[number],
            begun=self._begins[number],
            mixture={} if held.own else {name: share for name, share in held.mixture.items() if share},
            tokens=held.tokens,
            lr=float(held.lr),
            shift=float(held.shift) if isinstance(held.shift, Fraction) else held.shift,
            settings=tuple(held.lines.values()),
        )

    def spans(self) -> Sequence[Span]:
        ends = [*self._begins[1:], None]
        found = zip(self._labels, self._begins, ends, self._stages, strict=True)
        return [Span(stage=name, begin=a, end=b, transition=stage.transition) for name, a, b, stage in found]

    def moves(self) -> Sequence[int]:
        found = set(self._begins)
        for span, stage in zip(self.spans(), self._stages, strict=True):
            if any(key.startswith(GLIDES) for key in map(_key, stage.set)):
                treads = (span.begin + _first_step(tread, stage.transition) for tread in range(1, TREADS + 1))
                found |= {step for step in treads if span.end is None or step < span.end}
        return sorted(found)

    def _bound(self, last: Held, stage: Stage) -> Held:
        lines = dict(last.lines)
        for line in stage.set:
            lines.pop(_key(line), None)  # said again: after what was said since
            lines[_key(line)] = line
        return Held(
            mixture=_shares(stage.mixture) or last.mixture,
            own=last.own and not stage.mixture,
            tokens=last.tokens if stage.tokens is None else stage.tokens,
            lr=last.lr if stage.lr is None else Fraction(repr(stage.lr)),
            shift=last.shift if stage.shift is None else _exact(stage.shift),
            lines=lines,
        )

    def _reached(self, number: int, step: int) -> Held:
        """What is reached after so many steps of a stage."""
        before, bound, length = self._from[number], self._to[number], self._stages[number].transition
        if step >= length:
            return bound
        way = Fraction(step, length)
        names = dict.fromkeys([*before.mixture, *bound.mixture])
        return evolve(
            bound,
            mixture={
                name: _between(before.mixture.get(name, Fraction(0)), bound.mixture.get(name, Fraction(0)), way)
                for name in names
            },
            lr=_between(before.lr, bound.lr, way),
            shift=_between(before.shift, bound.shift, way)
            if isinstance(before.shift, Fraction) and isinstance(bound.shift, Fraction)
            else bound.shift,
            lines=self._lines(number, Fraction(step * TREADS // length, TREADS)),
        )

    def _lines(self, number: int, way: Fraction) -> dict[str, str]:
        """The settings of a stage, thresholds so far on their way."""
        before, lines = self._from[number].lines, dict(self._to[number].lines)
        for key in map(_key, self._stages[number].set):
            if not key.startswith(GLIDES):
                continue
            old = _number(before[key].partition("=")[2]) if key in before else _value(self._outset.value(key))
            new = _number(lines[key].partition("=")[2])
            if old is not None and new is not None:
                lines[key] = f"{key} = {_between_numbers(old, new, way)}"
        return lines


def _between(old: Fraction, new: Fraction, way: Fraction) -> Fraction:
    return old + (new - old) * way


def _between_numbers(old: Number, new: Number, way: Fraction) -> str:
    """As a recipe spells it: whole where both are."""
    found = _between(Fraction(old), Fraction(new), way)
    return str(round(found)) if isinstance(old, int) and isinstance(new, int) else repr(float(found))


def _first_step(tread: int, length: int) -> int:
    """The first step of a transition that stands on a tread."""
    return -(-tread * length // TREADS)


def _shares(weights: Mapping[str, float]) -> dict[str, Fraction]:
    """Together 1."""
    exact = {name: Fraction(repr(float(weight))) for name, weight in weights.items()}
    total = sum(exact.values())
    return {name: weight / total for name, weight in exact.items()} if total else {}


def _exact(shift: Shift | None) -> Shift | Fraction | None:
    if shift == "none":
        return Fraction(1)
    return shift if shift is None or isinstance(shift, str) else Fraction(repr(float(shift)))


def _key(line: str) -> str:
    return line.partition("=")[0].strip()


def _number(text: str) -> Number | None:
    """A number as TOML spells it: whole, or an exact fraction; None: it is none."""
    try:
        found = Fraction(text.strip().replace("_", ""))
    except (ValueError, ZeroDivisionError):
        return None
    return int(found) if found.denominator == 1 and not set(text.lower()) & {".", "e"} else found


def _value(value: Any) -> Number | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if isinstance(value, int) else Fraction(repr(value))
