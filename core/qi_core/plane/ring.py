"""Buffers that portions are read into: page-aligned, pinned where there is CUDA, and used again.

A buffer is lent as a memoryview. It comes back by itself when that view is gone, and torch keeps it for as long as any
tensor looks into it; so nothing is ever written over that somebody may still read, and nobody has to give anything
back. Where none is free another one is made: what bounds memory is how much is ordered ahead.
"""

from __future__ import annotations

import mmap
import queue
import threading
import weakref
from typing import Any

PAGE = mmap.PAGESIZE


class Ring:
    """Any thread may ask."""

    def __init__(self, keep: int, *, pinned: bool | None = None) -> None:
        """``keep``: buffers that wait to be used again at most. ``pinned``: None pins where there is CUDA."""
        if pinned is None:
            import torch

            pinned = torch.cuda.is_available()
        self._keep, self._pinned = keep, pinned
        self._device = _device() if pinned else -1  # of this thread: others begin with the first
        self._free: list[memoryview] = []
        # The end of a view may be noticed anywhere, in the middle of ``lend`` too: it must not wait for a lock.
        self._returned: queue.SimpleQueue[memoryview] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._lent = 0
        self.made = 0
        """Buffers that had to be made."""

    @property
    def lent(self) -> int:
        """Buffers in use now."""
        return self._lent - self._returned.qsize()

    def lend(self, size: int) -> memoryview:
        """So many bytes, with anything in them."""
        whole = self._taken(size)
        if whole is None:
            whole = self._new(size)
        elif self._pinned:
            # A copy to the device that was started from it, and is not waited for, may still be going on.
            _settle(self._device)
        lent = whole[:size]
        weakref.finalize(lent, self._returned.put, whole).atexit = False
        return lent

    def _taken(self, size: int) -> memoryview | None:
        """The smallest that is large enough."""
        with self._lock:
            while not self._returned.empty():
                self._free.append(self._returned.get())
                self._lent -= 1
            self._lent += 1
            self._free = sorted(self._free, key=len)[-self._keep :]
            return next((self._free.pop(i) for i, each in enumerate(self._free) if len(each) >= size), None)

    def _new(self, size: int) -> memoryview:
        room = max(-(-size // PAGE), 1) * PAGE
        room += -(-room // 8 // PAGE) * PAGE  # the next portion may be somewhat larger
        with self._lock:
            self.made += 1
        if not self._pinned:
            return memoryview(mmap.mmap(-1, room))
        import torch

        pinned: Any = torch.empty(room, dtype=torch.uint8, pin_memory=True).numpy()
        return memoryview(pinned)


def _device() -> int:
    import torch

    return torch.cuda.current_device()


def _settle(device: int) -> None:
    import torch

    torch.cuda.synchronize(device)
