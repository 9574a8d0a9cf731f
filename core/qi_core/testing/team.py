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
        self.places: list[Any] = [None] * ranks
        self.barrier = threading.Barrier(ranks, timeout=PATIENCE)
        self.lock = threading.Lock()
        self.others: list[Table] = []
        """Of the lines apart, in the order in which they were opened."""


class Thread:
    """``qi_core.parallel.Team`` of one of them."""

    def __init__(self, rank: int, table: Table) -> None:
        self.rank, self.ranks = rank, len(table.places)
        self._table, self._apart = table, 0

    def gather(self, item: T) -> list[T]:
        """See ``Team``."""
        self._table.places[self.rank] = item
        self._table.barrier.wait()
        found = list(self._table.places)
        self._table.barrier.wait()
        return cast("list[T]", found)

    def send(self, item: T) -> T:
        """See ``Team``."""
        return self.gather(item)[0]

    def apart(self) -> Thread:
        """See ``Team``."""
        with self._table.lock:
            if len(self._table.others) == self._apart:
                self._table.others.append(Table(self.ranks))
        self._apart += 1
        return Thread(self.rank, self._table.others[self._apart - 1])


def together(ranks: int, work: Callable[[Thread], T]) -> list[T | Exception]:
    """What the work gives, or raises, on each rank. Those that wait for one that has failed are let go."""
    table = Table(ranks)

    def alone(team: Thread) -> T | Exception:
        try:
            return work(team)
        except Exception as error:
            for each in (table, *table.others):
                each.barrier.abort()
            return error

    with ThreadPoolExecutor(ranks) as pool:
        return list(pool.map(alone, [Thread(rank, table) for rank in range(ranks)]))
