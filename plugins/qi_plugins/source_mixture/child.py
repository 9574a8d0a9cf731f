"""What both kinds of combined source do with the sources they are made of."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

from attrs import evolve

from qi_core import material
from qi_core.data import Sample, Samples
from qi_core.drawing import Passed, drawn
from qi_core.errors import QiError
from qi_core.pixels import Unusable
from qi_core.place import Closing, Place
from qi_core.skipped import Skipped
from qi_core.source import Named, Planned, Source, SourceComponent, Ticket


class Child(Source[Samples], Planned, Protocol):
    """A live source that plans."""


def refuse_others(where: str, source: SourceComponent[Any]) -> None:
    """Raises QiError unless the source gives samples."""
    if source.gives is not Samples:
        raise QiError(
            f"{where}: {type(source).__name__} gives {source.gives.__name__}; sources that are combined must all give "
            "Samples; take it out, or train on it alone"
        )


def build(source: SourceComponent[Any], place: Place, label: str, multiple: int) -> Child:
    """Built with a seed of its own: two children of one kind must not roll the same numbers. Raises QiError unless it
    plans."""
    seed = int.from_bytes(hashlib.blake2b(f"{place.seed}/{label}".encode(), digest_size=4).digest(), "little")
    live = source.build(evolve(place, seed=seed), multiple)
    if not isinstance(live, Planned):
        raise QiError(
            f"{label}: {type(source).__name__} cannot say what comes next before it is made (qi_core.Planned), as "
            "sources that are combined must; train on it alone"
        )
    return live


class Combined(ABC):
    """What a source that is made of others has in common with each that is: a ticket is a child's number and then the
    child's own, and a child's label stands before the keys of its samples."""

    gives = Samples

    def __init__(self, kind: str, children: Mapping[str, Child], folder: Path) -> None:
        """``kind``: what a child is called in reports, before its label. ``folder``: the run's."""
        self.kind = kind
        self.children = dict(children)
        self.labels = list(children)
        self._passed = Passed(Skipped(folder, f"{kind}s"))

    def child(self, number: int) -> Child:
        return self.children[self.labels[number]]

    @abstractmethod
    def plan(self, count: int) -> list[Ticket]: ...

    def cost(self, ticket: Ticket) -> int:
        return self.child(ticket[0]).cost(ticket[1:])

    def called(self, ticket: Ticket) -> str:
        return f"{self.labels[ticket[0]]}/{self.child(ticket[0]).called(ticket[1:])}"

    def named(self, ticket: Ticket) -> bytes | None:
        """See ``qi_core.source.Named``: the child's, and the label that its keys get here."""
        child, label = self.child(ticket[0]), self.labels[ticket[0]]
        name = child.named(ticket[1:]) if isinstance(child, Named) else None
        return None if name is None else label.encode() + b"/" + name

    def made_of(self) -> dict[str, str]:
        """See ``qi_core.source.OfFiles``: of all children, under their labels."""
        return material.of_all(self.children)

    def make(self, ticket: Ticket) -> Sample:
        """Raises Unusable, counted by child."""
        try:
            sample: Sample = self.child(ticket[0]).make(ticket[1:])
        except Unusable as error:
            raise error.again(f"{self.kind} {self.labels[ticket[0]]}") from error
        return evolve(sample, key=f"{self.labels[ticket[0]]}/{sample.key}")

    def other(self, ticket: Ticket, attempt: int) -> Ticket:
        return ticket[0], *self.child(ticket[0]).other(ticket[1:], attempt)

    def draw(self, count: int) -> Samples:
        return drawn(self, count, self._passed)  # type: ignore[no-any-return]

    def close(self) -> None:
        """See ``Closing``."""
        with ExitStack() as stack:  # one that fails to close keeps none of the others open
            for child in self.children.values():
                if isinstance(child, Closing):
                    stack.callback(child.close)

    def report(self) -> dict[str, int]:
        """What the children left out before, and what ``draw`` had to pass over, each with the child's label."""
        before = {
            f"{self.kind} {label}: {reason}": count
            for label, child in self.children.items()
            for reason, count in child.report().items()
        }
        return dict(Counter(before) + self._passed.counts)
