"""From tickets to samples: each is made, or another in its place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeAlias

from attrs import frozen

from qi_core.errors import QiError
from qi_core.pixels import Unusable
from qi_core.portions import Lost
from qi_core.skipped import Skip
from qi_core.source import Planned, Ticket

TRIES = 1000
"""Samples in a row that cannot be used, one in the place of another, before something larger must be wrong (a disk
that is gone)."""


@frozen(kw_only=True, eq=False)
class Made:
    """A sample, and those before it that could not be used."""

    item: Any
    lost: tuple[Lost, ...] = ()


Before: TypeAlias = Callable[[str], None]
"""Is told the key of each sample before it is made. Raises Unusable where it must not be."""


class Rejected(Unusable):
    """It is not wanted, or does not fit: nothing is broken, and many may be so."""


def made(source: Planned, ticket: Ticket, before: Before | None = None) -> Made:
    """The sample of a ticket, or who stands in for it: decided by the ticket, and by what ``before`` refuses. Raises
    QiError when nothing usable is left."""
    lost: list[Lost] = []
    tried = ticket
    while True:
        try:
            if before is not None:
                before(source.called(tried))
            return Made(item=source.make(tried), lost=tuple(lost))
        except Unusable as error:
            name, rejected = source.called(tried), isinstance(error, Rejected)
            lost.append(Lost(key=name, reason=error.reason, detail=error.detail, rejected=rejected))
            if len(lost) == TRIES:
                hint = "ask less of them" if rejected else "check that the data is still there"
                raise QiError(
                    f"{TRIES} samples in a row could not be used, the last, {name}: {error.reason} ({error.detail}); "
                    f"{hint}, or give other data"
                ) from error
        tried = source.other(ticket, len(lost))


def all_made(
    source: Planned,
    tickets: Sequence[Ticket],
    pool: ThreadPoolExecutor | None = None,
    before: Before | None = None,
) -> list[Made]:
    """One a ticket, in order, made side by side in the pool's threads."""
    if pool is None:
        return [made(source, ticket, before) for ticket in tickets]
    return list(pool.map(partial(made, source, before=before), tickets))


class Passed:
    """Those that ``drawn`` had to pass over, each counted once."""

    def __init__(self, skip: Skip | None = None) -> None:
        """``skip``: is told too."""
        self.counts: Counter[str] = Counter()
        self._skip, self._seen = skip, set[tuple[str, str]]()

    def __call__(self, lost: Lost) -> None:
        if (lost.key, lost.reason) in self._seen:
            return
        self._seen.add((lost.key, lost.reason))
        self.counts[lost.reason] += 1
        if self._skip:
            self._skip(lost.key, lost.reason, lost.detail)


def drawn(source: Planned, count: int, passed: Passed, pool: ThreadPoolExecutor | None = None) -> Any:
    """``Source.draw`` of a source that plans: the next batch, made here."""
    found = all_made(source, source.plan(count), pool)
    for one in found:
        for lost in one.lost:
            passed(lost)
    return source.gives(items=tuple(one.item for one in found))
