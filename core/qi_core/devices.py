"""Which device a process takes, and in which precision it computes there."""

from __future__ import annotations

import os
import shutil

import torch

from qi_core.errors import QiError


def device(asked: str, local_rank: int = 0) -> torch.device:
    """``auto`` (a GPU if there is one), ``cpu``, ``cuda`` (this process's own of those in the machine) or ``cuda:1``.

    Raises QiError where it isn't there.
    """
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if asked == "auto":
        asked = "cuda" if there else "cpu"
    found = torch.device(asked)
    if found.type == "cuda":
        index = found.index if ":" in asked else _own(local_rank, there)
        if index >= there:
            by = f" by process {local_rank} of this machine" if local_rank else ""
            raise QiError(
                f"parallel.device: {asked!r} was asked for{by}, but torch sees {there} CUDA device(s) here; "
                'use device = "auto" or "cpu", or check the driver and that this torch is built for CUDA'
            )
        found = torch.device("cuda", index)
        torch.cuda.set_device(found)  # kernels that ask for "the current device" find the same one
    return found


def _own(local_rank: int, there: int) -> int:
    """Slurm may show each process its own GPU alone (``--gpus-per-task=1``), and numbers the processes all the same."""
    by_slurm = "SLURM_LOCALID" in os.environ and "LOCAL_RANK" not in os.environ
    return 0 if by_slurm and there == 1 else local_rank


def need_compiler() -> None:
    """torch.compile writes C++ for the CPU; without a compiler it would fail in the first step."""
    if not any(shutil.which(name) for name in (os.environ.get("CXX"), "g++", "clang++") if name):
        raise QiError(
            "parallel.compile: torch.compile was asked for on the CPU, but there is no C++ compiler here "
            "(g++ or clang++ was wanted); install one, or use compile = false"
        )


def dtype(asked: str, device: torch.device) -> torch.dtype:
    """``fp32``, ``bf16`` or ``auto`` (bf16 on a GPU that has it). Raises QiError where the device has none."""
    has_bf16 = device.type == "cpu" or torch.cuda.is_bf16_supported(including_emulation=False)
    if asked == "auto":
        return torch.bfloat16 if device.type == "cuda" and has_bf16 else torch.float32
    if asked == "bf16" and not has_bf16:
        raise QiError(
            f"parallel.precision: 'bf16' was asked for, but {torch.cuda.get_device_name(device)} has no bfloat16 "
            '(Ampere or newer was wanted); use precision = "fp32"'
        )
    return torch.bfloat16 if asked == "bf16" else torch.float32


def settle(device: torch.device, dtype: torch.dtype, threads: int) -> None:
    """Of this process: products in float32 are float32's (TF32 keeps ten bits of 23), an operation on the CPU takes so
    many threads (0: torch's choice)."""
    if device.type == "cuda" and dtype == torch.float32:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    if threads:
        torch.set_num_threads(threads)
