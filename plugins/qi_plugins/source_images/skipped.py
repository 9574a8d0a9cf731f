"""The account of what was skipped: counts by reason, and a list in the run's folder."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from qi_core.errors import QiError


class Skipped:
    """Counts, and writes each to ``skipped.jsonl`` once, however often the run is resumed."""

    def __init__(self, folder: Path, source: str) -> None:
        self._path, self._source = folder / "skipped.jsonl", source
        self._listed: set[str] | None = None
        self.counts: Counter[str] = Counter()

    def __call__(self, key: str, reason: str, detail: str = "") -> None:
        """Count it and put it on the list."""
        self.counts[reason] += 1
        line = json.dumps({"source": self._source, "key": key, "reason": reason, "detail": detail})
        try:
            if self._listed is None:
                text = self._path.read_text("utf-8", errors="replace") if self._path.exists() else ""
                self._listed = set(text.splitlines())
            if line not in self._listed:
                self._listed.add(line)
                with self._path.open("a", encoding="utf-8") as file:
                    file.write(line + "\n")
        except OSError as error:
            raise QiError(f"{self._path}: the list of skipped samples cannot be written ({error.strerror})") from error
