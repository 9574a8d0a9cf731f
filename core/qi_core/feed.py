"""What the loop trains on next: batches of sources that draw, made ahead by a thread.

Sources that plan (almost all) are fed by ``qi_core.orders``.
"""

from __future__ import annotations

import queue
import threading
import zlib
from contextlib import suppress
from types import TracebackType
from typing import Any, Protocol

from attrs import evolve, frozen

from qi_core.data import Batch, keys
from qi_core.dealing import balanced
from qi_core.portions import Order, Portion
from qi_core.source import Source


@frozen(kw_only=True, eq=False)
class Ready:
    """What one replica trains on in one step, and where the source stands after it."""

    portions: tuple[Portion, ...]
    """Its share of the step's batch; if it has none, something to compute for the others' sake (``spare``). Nothing at
    all where the step's batch is empty (rollouts that teach nothing)."""
    total: int
    """Samples of the step, of all replicas together."""
    passes: int
    """Micro-batches of every replica, where there is anything."""
    position: dict[str, Any]
    """What a checkpoint keeps once this is trained on."""
    digest: int
    """Of what all replicas must have alike: 16 bits."""
    spare: bool = False
    orders: tuple[Order, ...] = ()
    """Of the portions, where they were ordered."""


class Feeding(Protocol):
    """A feed, in use: a context that ends its threads."""

    def __enter__(self) -> Feeding: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None: ...

    def next(self) -> Ready:
        """Of the next step. Raises what making it raised."""
        ...


def digest(what: object) -> int:
    """16 bits of it."""
    return zlib.crc32(repr(what).encode("utf-8", "backslashreplace")) % (1 << 16)


class Feed:
    """Draws batches of one size and takes a replica's part: every replica draws all of it. The order does not depend
    on how far ahead the thread is."""

    def __init__(
        self, source: Source[Any], size: int, ahead: int, replicas: int = 1, replica: int = 0, accumulate: int = 1
    ) -> None:
        self._source, self._size = source, size
        self._replicas, self._replica, self._accumulate = replicas, replica, accumulate
        self._ready: queue.Queue[Ready | BaseException] = queue.Queue(max(ahead, 1))
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, name="qi-feed", daemon=True) if ahead else None

    def __enter__(self) -> Feed:
        if self._thread:
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._closed.set()
        if self._thread:
            while self._thread.is_alive():  # it may be waiting for room
                with suppress(queue.Empty):
                    self._ready.get(timeout=0.05)

    def next(self) -> Ready:
        """The next batch. Raises what the source raised."""
        if self._thread is None:
            return self._draw()
        item = self._ready.get()
        if isinstance(item, BaseException):
            raise item
        return item

    def _draw(self) -> Ready:
        batch: Batch = self._source.draw(self._size)
        ready = Ready(
            portions=(Portion(batch=batch),),
            total=len(batch),
            passes=min(self._accumulate, len(batch)),
            position=self._source.state_dict(),
            digest=digest((keys(batch), tuple(batch.costs))),
        )
        return self._part(ready, batch) if self._replicas > 1 and len(batch) else ready

    def _part(self, ready: Ready, batch: Batch) -> Ready:
        own = balanced(batch.costs, self._replicas)
        mine = own[self._replica]
        return evolve(
            ready,
            portions=(Portion(batch=batch.pick(mine or [0])),),
            passes=min(self._accumulate, max(map(len, own))),
            spare=not mine,
        )

    def _work(self) -> None:
        while not self._closed.is_set():
            try:
                item: Ready | BaseException = self._draw()
            except BaseException as error:
                item = error
            self._ready.put(item)
            if isinstance(item, BaseException):
                return
