"""The account of what was skipped: counts by reason, and a list in the run's folder."""

from __future__ import annotations

import json
from collections import Counter
from hashlib import blake2b
from pathlib import Path
from typing import Protocol

from qi_core.errors import QiError
from qi_core.seat import seat

_quiet = False


def quiet() -> None:
    """This process only counts: another one finds the same, and lists it."""
    global _quiet
    _quiet = True


class Skip(Protocol):
    """Whoever is told what is skipped."""

    def __call__(self, key: str, reason: str, detail: str = "") -> None: ...


class Skipped:
    """Counts, and writes each to ``skipped.jsonl`` once, however often the run is resumed. Of several ranks, which all
    draw the same, the first one writes."""

    def __init__(self, folder: Path, source: str) -> None:
        self._path, self._source = folder / "skipped.jsonl", source
        self._listed: set[bytes] | None = None
        self.counts: Counter[str] = Counter()

    def __call__(self, key: str, reason: str, detail: str = "") -> None:
        """Count it and put it on the list."""
        self.counts[reason] += 1
        if seat().rank or _quiet:
            return
        # The detail is last, and says nothing of who it is: a picture that is cropped anew each time measures anew.
        line = json.dumps({"source": self._source, "key": key, "reason": reason, "detail": detail})
        try:
            if self._listed is None:
                self._listed = set()
                if self._path.exists():
                    with self._path.open("rb") as file:
                        self._listed = {_short(listed) for listed in file}
            if _short(line.encode()) not in self._listed:
                self._listed.add(_short(line.encode()))
                with self._path.open("a", encoding="utf-8") as grown:
                    grown.write(line + "\n")
        except OSError as error:
            raise QiError(f"{self._path}: the list of skipped samples cannot be written ({error.strerror})") from error


def _short(line: bytes) -> bytes:
    """Stands for a line up to its detail: of a million, two are taken for one once in thirty million lists."""
    return blake2b(line.rpartition(b', "detail": "')[0], digest_size=8).digest()
