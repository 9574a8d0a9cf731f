"""Moving averages of a run's speed, for trackers."""

from __future__ import annotations

from collections import defaultdict, deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qi_core.tracker import StepDone


class Meter:
    """Speed over the last steps. Time between steps (evaluations, saves) doesn't count."""

    def __init__(self, window: int = 50) -> None:
        self._steps: deque[StepDone] = deque(maxlen=window)

    def add(self, event: StepDone) -> None:
        """One more step."""
        self._steps.append(event)

    @property
    def samples_per_second(self) -> float:
        seconds = self._seconds()
        return sum(event.samples for event in self._steps) / seconds if seconds else 0.0

    @property
    def seconds_per_step(self) -> float:
        return self._seconds() / len(self._steps) if self._steps else 0.0

    @property
    def shares(self) -> dict[str, float]:
        """Where the time went: name -> part of it, together 1."""
        total: defaultdict[str, float] = defaultdict(float)
        for event in self._steps:
            for name, seconds in event.seconds.items():
                total[name] += seconds
        everything = sum(total.values())
        return {name: seconds / everything for name, seconds in total.items()} if everything else {}

    def _seconds(self) -> float:
        return sum(sum(event.seconds.values()) for event in self._steps)
