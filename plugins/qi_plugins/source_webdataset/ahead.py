"""Shards behind HTTP, read ahead: in few large pieces, in the order of their bytes, as far as memory is given for it.

The order of samples is mixed over a window of shards, so a request a sample would be made for each of them. As all of a
window's samples will come, its shards are read from their beginnings beside, and whoever finds the bytes there needs no
request. What is not there yet, or has no room, is asked for alone as ever: this decides what is asked for, never what
comes.
"""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

from attrs import define, field

from qi_core.errors import QiError
from qi_core.pixels import Unusable
from qi_plugins.source_webdataset.access import Access

PIECE = 2**23
"""Bytes of a request."""
AT_ONCE = 2
"""Shards that are read ahead together; their requests are among those ``in_flight``."""
WORTH = 0.5
"""Share of a shard's samples that must be made in this process: of several producers each makes a part of them, and
what each would read ahead for itself would be sent several times. And share of them that must still be to come."""
QUIET = 40
"""A shard from which nothing was taken while so many samples a shard came from the window is done with: that one of a
window is passed over so often by chance, happens once in 10^17."""


@define(eq=False)
class Shelved:
    """What is at hand of a shard."""

    access: Access
    samples: int = 0
    """0: it is still being looked into."""
    taken: int = 0
    last: int = 0
    """How many samples had been taken in all when one was taken of this shard."""
    starts: list[int] = field(factory=list)
    """Of stretches, ascending; they don't overlap."""
    stretches: list[bytes] = field(factory=list)
    whole: bool = False
    """Nothing more of it is to be read."""
    reading: bool = False

    @property
    def spent(self) -> bool:
        """All its samples of this epoch came."""
        return 0 < self.samples <= self.taken

    @property
    def worth(self) -> bool:
        """Whether enough of its samples are to come."""
        return self.taken <= (1 - WORTH) * self.samples

    def get(self, start: int, length: int) -> bytes | None:
        """None where a byte of it is missing."""
        parts: list[bytes] = []
        at, end = start, start + length
        for number in range(max(bisect_right(self.starts, start) - 1, 0), len(self.starts)):
            begin, stretch = self.starts[number], self.stretches[number]
            if at >= end or begin > at:
                break
            parts.append(stretch[at - begin : end - begin])
            at += len(parts[-1])
        return b"".join(parts) if at >= end else None

    def put(self, start: int, data: bytes) -> None:
        number = bisect_left(self.starts, start)
        self.starts.insert(number, start)
        self.stretches.insert(number, data)

    def gap(self, size: int) -> tuple[int, int] | None:
        """The first stretch that is missing, of a piece at most: start and length."""
        at = 0
        for begin, stretch in zip(chain(self.starts, [size]), chain(self.stretches, [b""]), strict=True):
            if begin > at:
                return at, min(begin - at, PIECE)
            at = begin + len(stretch)
        return None


class Ahead:
    """Of all shards of a source. Asked from any thread."""

    def __init__(self, room: int, window: int) -> None:
        """``room``: bytes. ``window``: shards whose samples are mixed."""
        self._room, self._window = room, window
        self._lock = threading.Lock()
        self._held: dict[int, Shelved] = {}
        self._wanted: list[int] = []
        self._used = self._all = 0
        self._share = 1.0
        self._closed = self._full = False
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="qi-ahead")

    def scanned(self, number: int, access: Access, start: int, data: bytes) -> None:
        """What came of a shard while it was looked into."""
        with self._lock:
            if self._worth() and self._fits(len(data)):
                self._of(number, access).put(start, data)
                self._used += len(data)

    def opened(self, number: int, access: Access, samples: int) -> None:
        """A shard was looked into, whose samples will come."""
        with self._lock:
            if self._worth():
                self._want(number, self._hold(number, access, samples))

    def lost(self, number: int) -> None:
        """Nothing of it will come."""
        with self._lock:
            self._drop(number)

    def takes(self, number: int, access: Access, samples: int) -> None:
        """One of the shard's samples is to be made."""
        with self._lock:
            self._all += 1
            held = self._hold(number, access, samples)
            if held.spent:  # an epoch later, or one that stands in
                self._count(held)
            held.taken += 1
            held.last = self._all
            if held.spent:  # it makes room for others
                self._full = False
            self._want(number, held)
            if self._all % (QUIET * self._window) == 0:
                self._tidy()

    def part(self, number: int, access: Access, start: int, length: int) -> bytes:
        """As ``Access.part``."""
        with self._lock:
            held = self._held.get(number)
            found = held.get(start, length) if held is not None and held.access is access else None
        return access.part(start, length) if found is None else found

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._held.clear()
            self._wanted.clear()
        self._pool.shutdown(wait=False, cancel_futures=True)

    # --- with the lock held ---

    def _worth(self) -> bool:
        """Not before a sample was made here: a trainer whose producers make them would hold what it never needs."""
        return not self._closed and self._all > 0 and self._share >= WORTH

    def _hold(self, number: int, access: Access, samples: int) -> Shelved:
        held = self._of(number, access)
        if not held.samples:
            held.samples, held.last = samples, self._all
        return held

    def _of(self, number: int, access: Access) -> Shelved:
        """What is held of a shard; nothing of an earlier look at it, when it may have been another."""
        held = self._held.setdefault(number, Shelved(access))
        if held.access is access:
            return held
        held.taken = 0  # its turn is not over, so it says nothing of how much is made here
        self._drop(number)
        return self._held.setdefault(number, Shelved(access))

    def _want(self, number: int, held: Shelved) -> None:
        """It is read on, where that is worth it and there is room."""
        if held.whole or held.reading or self._full or number in self._wanted:
            return
        if held.worth and self._worth():
            self._wanted.append(number)
            self._pool.submit(self._read_on)

    def _fits(self, size: int) -> bool:
        """Whether there is room; who is spent makes some."""
        if self._used + size > self._room:
            for number in [number for number, held in self._held.items() if held.spent]:
                self._drop(number)
                if self._used + size <= self._room:
                    break
        self._full = self._used + size > self._room
        return not self._full

    def _drop(self, number: int) -> None:
        held = self._held.pop(number, None)
        if held is None:
            return
        if number in self._wanted:
            self._wanted.remove(number)
        self._full = False
        self._used -= sum(map(len, held.stretches))
        held.starts, held.stretches, held.whole = [], [], True
        self._count(held)

    def _count(self, held: Shelved) -> None:
        """How much of a shard was made here, once its turn is over."""
        if held.taken:
            self._share = 0.5 * self._share + 0.5 * min(held.taken / held.samples, 1.0)
        held.taken = 0

    def _tidy(self) -> None:
        """Let go of those whose window is over. Spent ones stay while there is room: they may serve another epoch."""
        since = self._all - QUIET * self._window
        for number in [n for n, held in self._held.items() if held.taken and not held.spent and held.last < since]:
            self._drop(number)

    def _next(self) -> tuple[int, Shelved] | None:
        """Whose samples come now goes first."""
        if self._closed or not self._wanted:
            return None
        number = next((n for n in self._wanted if self._held[n].taken), self._wanted[0])
        self._wanted.remove(number)
        return number, self._held[number]

    # --- reading ---

    def _read_on(self) -> None:
        """A shard, until all of it is at hand or there is no room."""
        with self._lock:
            found = self._next()
            if found is None:
                return
            number, held = found
            held.reading = True
        try:
            while self._read_piece(number, held):
                pass
        finally:
            with self._lock:
                held.reading = False

    def _read_piece(self, number: int, held: Shelved) -> bool:
        """Whether there may be more."""
        access = held.access
        with self._lock:
            gap = held.gap(access.size)
            if gap is None:
                held.whole = True
            if gap is None or self._held.get(number) is not held or held.spent or not self._worth():
                return False
            if not self._fits(gap[1]):
                return False
            self._used += gap[1]
        try:
            data = access.part(*gap)
        except (Unusable, QiError):  # whoever needs it will be told
            data = b""
        with self._lock:
            self._used -= gap[1]
            if self._held.get(number) is not held or len(data) != gap[1]:
                held.whole = True
                return False
            held.put(gap[0], data)
            self._used += gap[1]
        return True
