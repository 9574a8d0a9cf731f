"""What is dear to make and alike for all who ask is made once, for as long as somebody holds it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Generic, TypeVar
from weakref import WeakValueDictionary

from qi_core.blob import stamp_of

V = TypeVar("V")


class Alike(Generic[V]):
    """Of a process. A change of a run's data builds its filters anew beside the old ones, and a model that both look
    with must not be loaded a second time."""

    def __init__(self) -> None:
        self._lock, self._live = threading.Lock(), WeakValueDictionary[Hashable, V]()

    def get(self, key: Hashable, make: Callable[[], V]) -> V:
        """``key``: all that decides what ``make`` gives."""
        with self._lock:
            found = self._live.get(key)
            if found is None:
                found = self._live[key] = make()
            return found


def lying_in(*folders: Path | None) -> Hashable:
    """For a key: which files these folders have now, and when each was last changed. What was made of others is not
    alike: caches go by what files hold (``qi_core.cache.identity``), and must not be given another's values."""
    files = (file for folder in folders if folder for file in sorted(folder.expanduser().glob("*")) if file.is_file())
    return tuple((str(file), stamp_of(file.stat())) for file in files)
