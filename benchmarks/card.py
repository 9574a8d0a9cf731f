"""What the benchmarks of a card share: timing, the shapes of the released model."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

SCALE, CHANNELS, TEXT_WIDTH = 16, 64, 3584
CAPTIONS = (64, 200, 128, 256)


def seconds(work: Callable[[], object], device: torch.device, rounds: int) -> float | None:
    """Median of the rounds, after three that don't count; None where memory doesn't suffice."""
    taken: list[float] = []
    try:
        for counted in range(-3, rounds):
            began = time.perf_counter()
            work()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if counted >= 0:
                taken.append(time.perf_counter() - began)
    except torch.cuda.OutOfMemoryError:
        return None
    return statistics.median(taken)


def most_memory(device: torch.device) -> float | None:
    """Most that was ever held since ``fresh_memory``, GiB."""
    return torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None


def fresh_memory(device: torch.device) -> None:
    """Counting begins here, and what is cached is given back."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def shown(value: float | None, form: str, unknown: str = "-") -> str:
    return unknown if value is None else format(value, form)
