"""What a producer has been told and been asked: specs by name, and orders, each carried out once."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from attrs import field, frozen, validators

if TYPE_CHECKING:
    from qi_core.plane.body import Body
    from qi_core.plane.workers import Makes
    from qi_core.portions import Order

KNOWN = 8
"""Specs that are remembered."""


@frozen(kw_only=True)
class Caps:
    """What a producer holds at most; beyond, orders are told to come again."""

    orders: int = field(default=64, validator=validators.gt(0))
    """Orders at once, being made or waiting to be."""
    bytes: int = field(default=4 << 30, validator=validators.gt(0))
    """Of portions that are made and not sent yet."""
    kept: int = field(default=256 << 20, validator=validators.ge(0))
    """Bytes of portions that were sent, kept for who asks again since they did not arrive whole."""


class Busy(Exception):
    """As much is being done as may be at once."""


class Specs:
    """What a producer can carry out orders by: given to it, by name."""

    def __init__(self, accept: Callable[[str], str]) -> None:
        """``accept``: checks a definition and gives its name. Raises QiError where this producer can't work by it."""
        self.accept, self._known = accept, OrderedDict[str, bytes]()

    def add(self, definition: str) -> str:
        """Its name. Raises QiError."""
        name = self.accept(definition)
        self.put(name, definition)
        return name

    def put(self, name: str, definition: str) -> None:
        """One that was accepted."""
        self._known[name] = definition.encode()
        self._known.move_to_end(name)
        while len(self._known) > KNOWN:
            self._known.popitem(last=False)

    def names(self) -> tuple[str, ...]:
        return tuple(self._known)

    def get(self, name: str) -> bytes | None:
        if name in self._known:
            self._known.move_to_end(name)
        return self._known.get(name)


class Held:
    """An order that is being carried out, or its body, for as long as somebody reads it or it is kept."""

    def __init__(self, making: asyncio.Future[Body]) -> None:
        self.making, self.readers = making, 0

    @property
    def body(self) -> Body | None:
        """None while it is made, and where it could not be."""
        making = self.making
        return making.result() if making.done() and not making.cancelled() and not making.exception() else None

    @property
    def size(self) -> int:
        return self.body.size if self.body else 0


class Orders:
    """Each is carried out once, however often it is asked for while its portion is there."""

    def __init__(self, makes: Makes, caps: Caps) -> None:
        self.makes, self._caps = makes, caps
        self._held: OrderedDict[str, Held] = OrderedDict()
        self.counts = {"orders": 0, "again": 0, "sent": 0, "bytes": 0, "busy": 0, "failed": 0}

    @asynccontextmanager
    async def answer(self, name: str, order: Order, definition: bytes) -> AsyncGenerator[Body]:
        """Raises Busy, and what the maker raises."""
        self.counts["orders"] += 1
        held = self._held.get(name)
        if held is not None:
            self.counts["again"] += 1
            self._held.move_to_end(name)
        else:
            if sum(not each.making.done() for each in self._held.values()) >= self._caps.orders:
                raise Busy(f"{self._caps.orders} orders are being carried out already")
            if sum(each.size for each in self._held.values() if each.readers) >= self._caps.bytes:
                raise Busy(f"{self._caps.bytes} bytes wait to be fetched already")
            held = self._held[name] = Held(asyncio.wrap_future(self.makes.submit(order, definition)))
            held.making.add_done_callback(lambda done: self._done(name, done))
        held.readers += 1
        try:
            # Who asks may hang up; the work is still wanted when they ask again.
            body = await asyncio.shield(held.making)
            yield body
            self.counts["sent"] += 1
            self.counts["bytes"] += body.size
        finally:
            held.readers -= 1
            self._tidy()

    def in_memory(self) -> int:
        """Bytes."""
        return sum(held.size for held in self._held.values())

    async def close(self) -> None:
        """End what is going on."""
        making = [held.making for held in self._held.values()]
        for each in making:
            each.cancel()
        await asyncio.gather(*making, return_exceptions=True)
        await asyncio.to_thread(self.makes.close)
        for held in self._held.values():
            if held.body:
                held.body.close()
        self._held.clear()

    def _done(self, name: str, making: asyncio.Future[Body]) -> None:
        if making.cancelled() or making.exception() is not None:
            self._held.pop(name, None)
            self.counts["failed"] += 1
        self._tidy()

    def _tidy(self) -> None:
        """Forget the oldest of those that nobody reads, until no more is kept than there is room for."""
        idle = {name: held for name, held in self._held.items() if held.body and not held.readers}
        kept = sum(held.size for held in idle.values())
        for name, held in idle.items():
            if kept <= self._caps.kept:
                return
            kept -= held.size
            del self._held[name]
            if held.body:
                held.body.close()
