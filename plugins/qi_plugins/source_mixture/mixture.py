"""Several sources at once, by weight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any, ClassVar

from attrs import Attribute, evolve, field, frozen

from qi_core.curriculum import Weight
from qi_core.data import Samples
from qi_core.errors import QiError
from qi_core.place import Place
from qi_core.shares import Turns, in_turn
from qi_core.source import Source, SourceComponent, Ticket
from qi_plugins.source_mixture.child import Child, Combined, build, refuse_others


def _weight(_: object, __: Attribute[Any], value: float) -> None:
    if not (isfinite(value) and value >= 0):
        raise ValueError(f"{value}: a weight is a number of 0 (switched off) or more")


def _parts(_: object, __: Attribute[Any], value: tuple[Part, ...]) -> None:
    if not value:
        raise ValueError("no parts; give at least one [[source.parts]]")
    for number, part in enumerate(value):
        refuse_others(f"parts[{number}]", part.source)
    labels = _labels(value)
    if twins := {label for label in labels if labels.count(label) > 1}:
        raise ValueError(f"two parts are called {min(twins)!r}; give each a name of its own")
    if not any(part.weight for part in value):
        raise ValueError("the weights sum to nothing; give some part a weight above 0")


def _labels(parts: tuple[Part, ...]) -> list[str]:
    return [part.name or str(number) for number, part in enumerate(parts)]


@frozen(kw_only=True)
class Part:
    """One source of a mixture."""

    name: str = ""
    """Stands before the keys of its samples and in reports, and a curriculum calls it so; its number if empty."""
    weight: float = field(default=1.0, validator=_weight)
    """Its share of the samples is this over the sum of all weights; 0: it is switched off."""
    source: SourceComponent[Any]
    """A source: a table with its name and its keys."""


@frozen(kw_only=True)
class Mixture:
    """Several sources at once: each gives its exact share of every 64 samples, in an order decided by the seed.

    Weights may change while a run goes on, by a curriculum or by hand; what each part is owed is carried over.
    """

    gives: ClassVar[type] = Samples

    parts: tuple[Part, ...] = field(validator=_parts)
    """The sources and their weights."""

    @property
    def weights(self) -> Mapping[str, float]:
        """Of each part, by its name."""
        return dict(zip(_labels(self.parts), (part.weight for part in self.parts), strict=True))

    def weighed(self, weights: Mapping[str, float]) -> Mixture:
        """With other weights of the parts that are named. Raises QiError for a name that no part has."""
        _refuse_unknown(weights, list(self.weights))
        try:
            return evolve(
                self,
                parts=tuple(
                    evolve(part, weight=weights.get(label, part.weight))
                    for label, part in zip(self.weights, self.parts, strict=True)
                ),
            )
        except ValueError as error:
            raise QiError(str(error)) from error

    def build(self, place: Place, multiple: int) -> Source[Samples]:
        children = {
            label: build(part.source, place, f"part {label}", multiple)
            for label, part in zip(self.weights, self.parts, strict=True)
        }
        return MixtureSource(children, tuple(part.weight for part in self.parts), place)


def _refuse_unknown(weights: Mapping[str, Weight], known: Sequence[str]) -> None:
    if unknown := [name for name in weights if name not in known]:
        raise QiError(f"no part of the mixture is called {unknown[0]!r} (known: {', '.join(known)})")


class MixtureSource(Combined):
    """Which part gives the n-th sample depends on the weights, the seed and n; which of its samples, on the part."""

    def __init__(self, children: Mapping[str, Child], weights: tuple[float, ...], place: Place) -> None:
        super().__init__("part", children, place.folder)
        self._turns = Turns(weights, place.seed)

    def weigh(self, weights: Mapping[str, Weight]) -> None:
        """Other weights hold from the next 64 samples on; parts that are not named give nothing."""
        _refuse_unknown(weights, self.labels)
        self._turns.weigh([weights.get(label, 0.0) for label in self.labels])

    def plan(self, count: int) -> list[Ticket]:
        return in_turn(self._turns.take(count), lambda part, wanted: self.child(part).plan(wanted))

    def state_dict(self) -> dict[str, Any]:
        parts = {label: child.state_dict() for label, child in self.children.items()}
        return {**self._turns.state_dict(), "parts": parts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        parts = state["parts"]
        if isinstance(parts, list):  # of a time when parts had no names
            labels = self.labels if len(parts) == len(self.labels) else map(str, range(len(parts)))
            parts = dict(zip(labels, parts, strict=True))
        if list(parts) != self.labels[: len(parts)]:
            raise QiError(
                f"source.parts: the checkpoint was made with the parts {', '.join(parts)}, the recipe has "
                f"{', '.join(self.labels)}; keep them in their order, new ones at the end (a weight of 0 switches one "
                "off)"
            )
        for label, own in parts.items():
            self.children[label].load_state_dict(own)
        self._turns.load_state_dict(state)
