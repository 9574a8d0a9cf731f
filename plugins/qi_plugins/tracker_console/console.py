"""The tracker "console" at work."""

from __future__ import annotations

import atexit
import time

from rich.console import Console as Screen
from rich.live import Live
from rich.text import Text

from qi_core import Change, Ended, Evaluated, Notice, Saved, Start, StepDone
from qi_core.data import listed
from qi_core.meter import Meter

REFRESH = 0.2
"""Seconds between two redraws of the line on a terminal."""


class LiveConsole:
    """See ``qi_core.tracker.Tracker``."""

    def __init__(self, screen: Screen, every_seconds: float) -> None:
        self._screen = screen
        self._pause = REFRESH if screen.is_terminal else every_seconds
        self._live: Live | None = None
        self._meter = Meter()
        self._steps = 0
        self._next = 0.0

    def tell(self, event: Start | StepDone | Evaluated | Change | Notice | Saved | Ended) -> None:
        match event:
            case Start():
                self._start(event)
            case StepDone():
                self._step(event)
            case Evaluated():
                self._say(f"step {event.step}  {event.name}: {_evaluated(event)}")
            case Change():
                self._say(f"step {event.step}  set {event.setting}")
            case Notice():
                self._say(f"step {event.step}  {event.text}")
            case Saved():
                stall = f", training waited {event.stall:.1f} s" if event.stall else ""
                self._say(f"step {event.step}  saved {event.path} in {event.seconds:.1f} s{stall}")
            case Ended():
                self._end(event)

    def _start(self, event: Start) -> None:
        self._steps = event.steps
        verb = f"goes on after step {event.step}" if event.step else "starts"
        self._say(f"{event.folder} {verb}: {event.steps} steps, {count(event.parameters)} trained parameters")
        for note in event.notes:
            self._say(f"  {note}")
        if self._screen.is_terminal:
            self._live = Live(console=self._screen, auto_refresh=False, transient=True)
            self._live.start()
            atexit.register(self._stop)  # a run that dies must not leave a terminal without a cursor

    def _step(self, event: StepDone) -> None:
        self._meter.add(event)
        if event.left_out:
            self._say(
                f"step {event.step}  update left out, gradient norm {event.grad_norm:.3g}: {listed(event.left_out)}"
            )
        now = time.monotonic()
        if now < self._next and event.step != self._steps:
            return
        self._next = now + self._pause
        line = self._progress(event)
        if self._live:
            self._live.update(Text(line, no_wrap=True, overflow="ellipsis"), refresh=True)
        else:
            self._say(line)

    def _end(self, event: Ended) -> None:
        self._stop()
        reason = "done" if event.reason == "done" else f"stopped by {event.reason}"
        self._say(f"{reason} at step {event.step} of {self._steps} after {duration(event.seconds)}")
        for why, times in event.skipped.items():
            self._say(f"  skipped {times}: {why}")
        for line in event.summary:
            self._say(line)

    def _progress(self, event: StepDone) -> str:
        left = (self._steps - event.step) * self._meter.seconds_per_step
        shares = " ".join(f"{name} {share:.0%}" for name, share in self._meter.shares.items())
        return (
            f"{event.step:>{len(str(self._steps))}}/{self._steps}  loss {event.loss:.4f}  "
            f"{number(self._meter.samples_per_second)} images/s  ETA {duration(left)}  {shares}"
        )

    def _say(self, line: str) -> None:
        # Not wrapped: a line in a log file stays a line, and a path can be copied.
        self._screen.print(line, markup=False, soft_wrap=True)

    def _stop(self) -> None:
        if self._live:
            self._live.stop()
            self._live = None
            atexit.unregister(self._stop)


def _evaluated(event: Evaluated) -> str:
    figures = [f"{name} {value:.4g}" for name, value in event.scalars.items()]
    return "  ".join([*figures, *([str(event.path)] if event.path else [])])


def number(value: float) -> str:
    """Three figures: 0.123, 12.3, 1234."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def count(value: int) -> str:
    """20.4B, 2.5M, 512."""
    for unit, name in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if value >= unit:
            return f"{value / unit:.1f}{name}"
    return str(value)


def duration(seconds: float) -> str:
    """1:02:03, 4:05."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"
