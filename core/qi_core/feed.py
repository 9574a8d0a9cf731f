"""Batches made ahead by a thread, each with the source's position after it."""

from __future__ import annotations

import queue
import threading
from contextlib import suppress
from types import TracebackType
from typing import Any

from attrs import frozen

from qi_core.data import Batch
from qi_core.source import Source


@frozen(eq=False)
class Ready:
    """A batch, and where the source stands after it: what a checkpoint keeps once the batch is trained on."""

    batch: Batch
    position: dict[str, Any]


class Feed:
    """Draws batches of one size. The order does not depend on how far ahead the thread is."""

    def __init__(self, source: Source[Any], size: int, ahead: int) -> None:
        self._source, self._size = source, size
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
        return Ready(batch=self._source.draw(self._size), position=self._source.state_dict())

    def _work(self) -> None:
        while not self._closed.is_set():
            try:
                item: Ready | BaseException = self._draw()
            except BaseException as error:
                item = error
            self._ready.put(item)
            if isinstance(item, BaseException):
                return
