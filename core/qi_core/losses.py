"""The account of samples that could not be trained on, in whose places others came."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from pathlib import Path

from qi_core.errors import QiError
from qi_core.portions import Lost
from qi_core.skipped import Skipped

WINDOW = 10_000
"""Samples over which broken ones are counted."""


class Losses:
    """Counts by reason each time that one is met; each is listed once in the run's folder."""

    def __init__(self, folder: Path, most: int) -> None:
        """``most``: different broken samples among the last 10,000 that end the run; 0: no limit."""
        self.counts: Counter[str] = Counter()
        self._skipped, self._most = Skipped(folder, "data"), most
        self._recent: deque[tuple[int, tuple[str, ...]]] = deque()
        self._samples = 0
        self._warned = False

    def add(self, step: int, samples: int, lost: Sequence[Lost]) -> str:
        """Of one step, of all replicas. What to tell, if anything. Raises QiError if too many are broken."""
        for one in lost:
            self.counts[one.reason] += 1
            self._skipped(one.key, one.reason, one.detail)
        self._recent.append((samples, tuple(one.key for one in lost if not one.rejected)))
        self._samples += samples
        while self._samples - self._recent[0][0] >= WINDOW:
            self._samples -= self._recent.popleft()[0]
        broken = {key for _, keys in self._recent for key in keys} if lost else set[str]()
        if not self._most or len(broken) < max(1, self._most // 10):
            return ""
        told = f"step {step}: {len(broken)} of the last {self._samples} samples could not be used ({self._told()})"
        if len(broken) >= self._most:
            raise QiError(
                f"{told}; look at the data and the disk, and go on with the same command, or raise data.broken "
                f"({self._most}); each with its reason is in skipped.jsonl in the run's folder"
            )
        warned, self._warned = self._warned, True
        return "" if warned else told

    def load(self, counts: Mapping[str, int]) -> None:
        """What a checkpoint kept."""
        self.counts = Counter({reason: int(count) for reason, count in counts.items()})

    def _told(self) -> str:
        return ", ".join(f"{count} x {reason}" for reason, count in self.counts.most_common(3))
