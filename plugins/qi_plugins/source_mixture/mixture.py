"""Several sources at once, by weight."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any, ClassVar

from attrs import Attribute, field, frozen

from qi_core.data import Samples
from qi_core.errors import QiError
from qi_core.place import Place
from qi_core.shares import Turns, in_turn
from qi_core.source import Source, SourceComponent, Ticket
from qi_plugins.source_mixture.child import Child, Combined, build, refuse_others


def _positive(_: object, __: Attribute[Any], value: float) -> None:
    if not (isfinite(value) and value > 0):
        raise ValueError(f"{value}: a weight is a number above 0; leave the part out to switch it off")


def _parts(_: object, __: Attribute[Any], value: tuple[Part, ...]) -> None:
    if not value:
        raise ValueError("no parts; give at least one [[source.parts]]")
    for number, part in enumerate(value):
        refuse_others(f"parts[{number}]", part.source)


@frozen(kw_only=True)
class Part:
    """One source of a mixture."""

    weight: float = field(default=1.0, validator=_positive)
    """Its share of the samples is this over the sum of all weights."""
    source: SourceComponent[Any]
    """A source: a table with its name and its keys."""


@frozen(kw_only=True)
class Mixture:
    """Several sources at once: each gives its exact share of every 64 samples, in an order decided by the seed."""

    gives: ClassVar[type] = Samples

    parts: tuple[Part, ...] = field(validator=_parts)
    """The sources and their weights."""

    def build(self, place: Place, multiple: int) -> Source[Samples]:
        children = {
            str(number): build(part.source, place, f"part {number}", multiple) for number, part in enumerate(self.parts)
        }
        return MixtureSource(children, tuple(part.weight for part in self.parts), place)


class MixtureSource(Combined):
    """Which part gives the n-th sample depends on the weights, the seed and n; which of its samples, on the part."""

    def __init__(self, children: Mapping[str, Child], weights: tuple[float, ...], place: Place) -> None:
        super().__init__("part", children, place.folder)
        self._turns = Turns(weights, place.seed)

    def plan(self, count: int) -> list[Ticket]:
        return in_turn(self._turns.take(count), lambda part, wanted: self.child(part).plan(wanted))

    def state_dict(self) -> dict[str, Any]:
        return {**self._turns.state_dict(), "parts": [child.state_dict() for child in self.children.values()]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if len(state["parts"]) != len(self.children):
            raise QiError(
                f"source.parts: the checkpoint was made with {len(state['parts'])} parts, the recipe has "
                f"{len(self.children)}; give the same parts in the same order (weights may change)"
            )
        for child, own in zip(self.children.values(), state["parts"], strict=True):
            child.load_state_dict(own)
        self._turns.load_state_dict(state)
