"""Sources one after another: a curriculum at the level of the data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from attrs import Attribute, field, frozen, validators

from qi_core.data import Samples
from qi_core.errors import QiError
from qi_core.place import Place
from qi_core.source import Source, SourceComponent, Ticket
from qi_plugins.source_mixture.child import Child, Combined, build, refuse_others


def _stages(_: object, __: Attribute[Any], value: tuple[Stage, ...]) -> None:
    if not value:
        raise ValueError("no stages; give at least one [[source.stages]]")
    for number, stage in enumerate(value):
        refuse_others(f"stages[{number}]", stage.source)
        if stage.samples == 0 and number + 1 < len(value):
            raise ValueError(f"stages[{number}].samples is 0, which means for ever; only the last stage may say so")
    labels = _labels(value)
    if twins := {label for label in labels if labels.count(label) > 1}:
        raise ValueError(f"two stages are called {min(twins)!r}; give each a name of its own")


def _labels(stages: tuple[Stage, ...]) -> list[str]:
    return [stage.name or str(number) for number, stage in enumerate(stages)]


@frozen(kw_only=True)
class Stage:
    """One stage of a curriculum."""

    name: str = ""
    """Stands before the keys of its samples and in reports; its number if empty."""
    samples: int = field(default=0, validator=validators.ge(0))
    """How many samples it lasts (steps times batch). The last stage goes on as long as the run does; it may say 0."""
    source: SourceComponent[Any]
    """A source: a table with its name and its keys; it may be a mixture."""


@frozen(kw_only=True)
class Stages:
    """Sources one after another: when a stage has given its samples, the next one begins with the very next sample."""

    gives: ClassVar[type] = Samples

    stages: tuple[Stage, ...] = field(validator=_stages)
    """The stages in their order. All are built when the run starts, so that a mistake in the last one shows at once."""

    def build(self, place: Place, multiple: int) -> Source[Samples]:
        children = {
            label: build(stage.source, place, f"stage {label}", multiple)
            for label, stage in zip(_labels(self.stages), self.stages, strict=True)
        }
        return StagesSource(children, [stage.samples for stage in self.stages], place)


class StagesSource(Combined):
    """The position is a stage and the samples it has given, so that lengths may be changed at a resume."""

    def __init__(self, children: Mapping[str, Child], lengths: list[int], place: Place) -> None:
        super().__init__("stage", children, place.folder)
        self._lengths = lengths
        self._stage = self._given = 0

    def plan(self, count: int) -> list[Ticket]:
        tickets: list[Ticket] = []
        while len(tickets) < count:
            wanted = count - len(tickets)
            if self._stage + 1 < len(self.labels):
                left = self._lengths[self._stage] - self._given
                if left <= 0:
                    self._stage, self._given = self._stage + 1, 0
                    continue
                wanted = min(wanted, left)
            tickets += [(self._stage, *ticket) for ticket in self.child(self._stage).plan(wanted)]
            self._given += wanted
        return tickets

    def state_dict(self) -> dict[str, Any]:
        return {
            "stage": self.labels[self._stage],
            "given": self._given,
            "stages": {label: child.state_dict() for label, child in self.children.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if missing := [label for label in state["stages"] if label not in self.children]:
            raise QiError(
                f"source.stages: the checkpoint knows a stage {missing[0]!r}, the recipe has "
                f"{', '.join(self.labels)}; keep the stages' names (lengths may change, stages may be added)"
            )
        for label, own in state["stages"].items():
            self.children[label].load_state_dict(own)
        self._stage, self._given = self.labels.index(state["stage"]), state["given"]
