"""What the benchmarks of a card share: peaks, timing, the shapes of the released model."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

# Dense bfloat16 TFLOP/s with float32 sums, from the makers' data sheets (half of what they print "with sparsity").
# A name stands before those that it begins with.
PEAKS = {
    "B200": 2250.0,
    "GH200": 989.0,
    "H200 NVL": 835.0,
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.0,
    "H800": 989.0,
    "H20": 148.0,
    "A100": 312.0,
    "A800": 312.0,
    "L40S": 362.0,
    "L40": 181.0,
    "L4": 121.0,
    "A10G": 70.0,
    "A10": 125.0,
    "RTX 6000 Ada": 364.0,
    "RTX A6000": 155.0,
    "RTX 5090": 209.5,
    "RTX 4090": 165.2,
    "RTX 3090": 71.0,
}
SCALE, CHANNELS, TEXT_WIDTH = 16, 64, 3584
CAPTIONS = (64, 200, 128, 256)


def peak_of(name: str) -> float | None:
    """Dense bfloat16 peak of a card by its name, TFLOP/s."""
    return next((peak for key, peak in PEAKS.items() if key in name), None)


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
