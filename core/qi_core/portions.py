"""A step's batch in portions: what is ordered from whoever makes samples, and what comes back."""

from __future__ import annotations

from attrs import frozen

from qi_core.data import Batch
from qi_core.source import Ticket


@frozen(kw_only=True)
class Avoided:
    """A sample that ends whoever makes it: another takes its place, as of one that can't be read."""

    key: str
    """As its source calls it: in later epochs too."""
    reason: str
    detail: str


@frozen(kw_only=True)
class Order:
    """A portion of one step's batch. Who carries it out needs nothing else, and gives the same answer every time."""

    spec: str
    """Names the settings that it is made by (a digest); whoever has others refuses."""
    step: int
    """Updates done before the one that it is for."""
    number: int
    """Which portion of the step's."""
    tickets: tuple[Ticket, ...]
    slots: tuple[int, ...]
    """The place of each sample in the step's batch."""
    made_of: tuple[tuple[str, str], ...] = ()
    """What the trainer's source is made of (see ``qi_core.source.OfFiles``); whoever's is made of other files
    refuses."""
    avoid: tuple[Avoided, ...] = ()
    """Samples that are not made, wherever they would come. Who keeps the processes that make samples finds out which; a
    trainer names none."""


@frozen(kw_only=True)
class Lost:
    """A sample that could not be used, in whose place another one came."""

    key: str
    reason: str
    detail: str
    rejected: bool = False
    """By a filter or its source, and not since it is broken."""


@frozen(kw_only=True, eq=False)
class Portion:
    """An order, carried out."""

    batch: Batch
    """Samples as the source gives them, or encoded as the objective takes them."""
    lost: tuple[Lost, ...] = ()
