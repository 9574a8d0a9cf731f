"""Curricula: what holds at which step of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from functools import cached_property
from typing import Any, Protocol, TypeAlias, runtime_checkable

from attrs import field, frozen

from qi_core.settings import Shift
from qi_core.source import Planned, Ticket

Weight: TypeAlias = float | Fraction
"""A float means the decimal number that a person wrote."""


@frozen(kw_only=True)
class State:
    """Everything that holds at a step."""

    stage: str
    begun: int
    """The step at which the stage began, counted from 0."""
    mixture: Mapping[str, Fraction] = field(factory=dict)
    """Share of each named part of the source, together 1; empty: the source's own weights."""
    tokens: int = 0
    """Image tokens a batch; 0: it has ``train.batch`` samples."""
    lr: float = 1.0
    """Factor on the optimizer's learning rate."""
    shift: Shift | None = None
    """Of the objective's times; None: the objective's own."""
    settings: tuple[str, ...] = ()
    """Lines of the recipe that hold (``data.filters.clarity.least = 60``), the later over the earlier."""


@frozen(kw_only=True)
class Outset:
    """What a recipe says before any stage: where a transition into the first stage that says something begins."""

    mixture: Mapping[str, float] = field(factory=dict)
    """Weights of the source's named parts; empty: it has none."""
    shift: Shift | None = None
    """Of the objective's times, if it has such a setting."""
    value: Callable[[str], Any] = lambda _: None
    """What the recipe says at a dotted key; None where it says nothing."""


@frozen(kw_only=True)
class Span:
    """A stage's place among the steps."""

    stage: str
    begin: int
    end: int | None
    """The step at which the next one begins; None: it goes on as long as the run does."""
    transition: int
    """Steps over which it comes in."""


class Curriculum(Protocol):
    """Which settings hold at which step: a function of its settings alone, so that any step can be asked for."""

    def at(self, step: int) -> State:
        """What holds for the update that comes after ``step`` others."""
        ...

    def spans(self) -> Sequence[Span]:
        """The stages in their order."""
        ...

    def moves(self) -> Sequence[int]:
        """The steps, in order, at which ``settings`` of a state may be others than before."""
        ...


class CurriculumComponent(Protocol):
    """The settings of a curriculum."""

    def build(self, outset: Outset) -> Curriculum:
        """Reads nothing and costs little. Raises QiError where it can't be followed."""
        ...

    def cut_short(self, stage: str, steps: int) -> str:
        """The line of a recipe that ends a stage after so many steps."""
        ...


@runtime_checkable
class Mixed(Protocol):
    """The settings of a source whose parts have names and weights."""

    @property
    def weights(self) -> Mapping[str, float]:
        """Of each part, by its name."""
        ...


@runtime_checkable
class Weighed(Protocol):
    """A live source whose parts' weights may change while it gives samples."""

    def weigh(self, weights: Mapping[str, Weight]) -> None:
        """Others hold as soon as it can (a mixture: with its next 64 samples); parts that are not named give nothing.
        Told again before every ``plan``; part of the position. Raises QiError for a name that it doesn't know."""
        ...


def due(curriculum: Curriculum, step: int) -> tuple[str, ...]:
    """The lines of the recipe that begin to hold at a step."""
    before = curriculum.at(step - 1).settings if step else ()
    return tuple(line for line in curriculum.at(step).settings if line not in before)


@frozen(kw_only=True, eq=False, slots=False)
class Pace:
    """Which samples the batch of a step is made of."""

    samples: int
    """``train.batch``."""
    patch: int
    """Pixels of an image token's side."""
    curriculum: Curriculum | None = None
    over: Mapping[str, float] = field(factory=dict)
    """Weights told by hand (``data.mixture``), in place of the stage's."""
    own: Mapping[str, float] = field(factory=dict)
    """The source's, where it has parts."""

    def state(self, step: int) -> State | None:
        """What the curriculum has; None without one."""
        return self.curriculum.at(step) if self.curriculum else None

    @cached_property
    def moves(self) -> frozenset[int]:
        """The steps at which other settings may take effect: nothing is made by those of before."""
        return frozenset(self.curriculum.moves()) if self.curriculum else frozenset()

    def weights(self, step: int) -> Mapping[str, Weight]:
        """Of the source's parts, as the stage has them; empty: as the source has them."""
        state = self.state(step)
        stage = state.mixture if state else {}
        return {**stage, **self.over} if stage else {}

    def tickets(self, source: Planned, step: int) -> list[Ticket]:
        """So many samples, or the first whose image tokens together reach what the stage wants. The source's position
        moves on."""
        weights = self.weights(step)
        if weights and isinstance(source, Weighed):
            source.weigh(weights)
        state = self.state(step)
        wanted = state.tokens if state else 0
        if not wanted:
            return source.plan(self.samples)
        tickets: list[Ticket] = []
        tokens = 0
        while tokens < wanted:
            tickets += source.plan(1)
            tokens += max(source.cost(tickets[-1]) // self.patch**2, 1)
        return tickets

    def begins(self, step: int) -> str:
        """What to tell of the stage that begins at a step; empty if none does."""
        state = self.state(step)
        if self.curriculum is None or state is None or state.begun != step:
            return ""
        return "; ".join([f"stage {state.stage!r} begins", *due(self.curriculum, step)])

    def figures(self, step: int) -> dict[str, float]:
        """To log with the step: the number of its stage, and each part's share. Nothing without a curriculum."""
        state = self.state(step)
        if self.curriculum is None or state is None:
            return {}
        weights = self.weights(step) or self.own
        weights = {**dict.fromkeys(self.own, 0.0), **weights}
        total = float(sum(weights.values()))
        told = {f"share/{name}": float(weight) / total for name, weight in weights.items()}
        number = [span.stage for span in self.curriculum.spans()].index(state.stage)
        return {"stage": float(number), **told}
