"""Ranks that are threads of one process: for what ranks tell each other, without launching any."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar, cast

T = TypeVar("T")
PATIENCE = 60.0
"""Seconds that a rank waits for the others."""


class Table:
    """Where the ranks lay down what they tell."""

    def __init__(self, ranks: int) -> None:
        self.ranks = ranks
        self.told: dict[int, dict[int, Any]] = {}
        """Number of the call -> rank -> what it gave."""
        self.gone: set[int] = set()
        self.changed = threading.Condition()
        self.others: list[Table] = []
        """Of the lines apart, in the order in which they were opened."""


class Thread:
    """``qi_core.parallel.Team`` of one of them."""

    def __init__(self, rank: int, table: Table) -> None:
        self.rank, self.ranks = rank, table.ranks
        self._table, self._calls, self._apart = table, 0, 0

    def gather(self, item: T) -> list[T]:
        """See ``Team``. RuntimeError where a rank is gone before it has told."""
        with self._table.changed:
            told = self._table.told.setdefault(self._calls, {})
            told[self.rank] = item
            self._calls += 1
            self._table.changed.notify_all()
            came = self._table.changed.wait_for(
                lambda: len(told) == self.ranks or self._table.gone - told.keys(), PATIENCE
            )
            if len(told) < self.ranks:
                raise RuntimeError("a rank is gone" if came else "a rank does not come")
            return cast("list[T]", [told[rank] for rank in range(self.ranks)])

    def send(self, item: T) -> T:
        """See ``Team``."""
        return self.gather(item)[0]

    def apart(self) -> Thread:
        """See ``Team``."""
        with self._table.changed:
            if len(self._table.others) == self._apart:
                self._table.others.append(Table(self.ranks))
        self._apart += 1
        return Thread(self.rank, self._table.others[self._apart - 1])


def together(ranks: int, work: Callable[[Thread], T]) -> list[T | Exception]:
    """What the work gives, or raises, on each rank."""
    table = Table(ranks)

    def alone(team: Thread) -> T | Exception:
        try:
            return work(team)
        except Exception as error:
            return error
        finally:
            for each in (table, *table.others):
                with each.changed:
                    each.gone.add(team.rank)
                    each.changed.notify_all()

    with ThreadPoolExecutor(ranks) as pool:
        return list(pool.map(alone, [Thread(rank, table) for rank in range(ranks)]))
