"""What the benchmarks share: fair timing, tables, JSON."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import frozen
from rich import box
from rich.console import Console
from rich.table import Table


@frozen
class Timing:
    """Seconds of one thing done."""

    wall: float
    cpu: float
    """Of the process, all threads together: on a busy machine trust it more than the wall time."""

    def __str__(self) -> str:
        return f"{self.cpu:.3f} ({self.wall:.3f})"


class Clock:
    """Both clocks from now on."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def read(self) -> Timing:
        return Timing(time.perf_counter() - self._wall, time.process_time() - self._cpu)


def median(timings: Iterable[Timing]) -> Timing:
    """Of each clock apart."""
    several = list(timings)
    return Timing(statistics.median(t.wall for t in several), statistics.median(t.cpu for t in several))


def in_turn(
    sides: Mapping[str, Callable[[], object]],
    rounds: int,
    warmup: int = 1,
    before: Callable[[], object] = lambda: None,
) -> dict[str, list[Timing]]:
    """Every side once a round, so that a neighbour on the machine disturbs all of them; warm-up rounds don't count.
    ``before`` each, and not timed: what makes them equal."""
    taken: dict[str, list[Timing]] = {name: [] for name in sides}
    for counted in range(-warmup, rounds):
        for name, side in sides.items():
            before()
            clock = Clock()
            side()
            if counted >= 0:
                taken[name].append(clock.read())
    return taken


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "") -> None:
    """Print one: the first column to the left, figures to the right."""
    made = Table(title=title, caption=caption or None, box=box.SIMPLE)
    for number, column in enumerate(columns):
        made.add_column(column, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        made.add_row(*row)
    console = Console()
    if not console.is_terminal:  # into a pipe or a file: wide enough that nothing is cut
        console = Console(width=max(80, Console(width=1000).measure(made).maximum))
    console.print(made)


def machine() -> dict[str, Any]:
    """On what the figures were measured."""
    names = [line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
    }


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def write(path: Path | None, figures: Mapping[str, Any]) -> None:
    """The figures as JSON, with the machine's name; nothing where no file was asked for."""
    if path is not None:
        path.write_text(json.dumps({"machine": machine(), **figures}, indent=2) + "\n", encoding="utf-8")
