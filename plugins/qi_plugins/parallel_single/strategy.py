"""One device at work."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from qi_core import QiError

if TYPE_CHECKING:
    from qi_core import Batch, DenoiserModule
    from qi_plugins.parallel_single.component import Single

    AnyBatch = TypeVar("AnyBatch", bound=Batch)


class LiveSingle:
    """See ``qi_core.parallel.Strategy``."""

    main = True

    def __init__(self, settings: Single) -> None:
        self.device = _device(settings.device)
        self.dtype = _dtype(settings.precision, self.device)
        self._compile = settings.compile
        if self.device.type == "cuda" and self.dtype == torch.float32:
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        if settings.compile and self.device.type == "cpu":
            _need_compiler()
        if settings.threads:
            torch.set_num_threads(settings.threads)

    def place(self, model: DenoiserModule) -> DenoiserModule:
        """On the device, trained weights in float32, blocks compiled one by one.

        Blocks are compiled in place by their own ``compile``: the names of parameters stay, one compilation serves all
        blocks, and a block may leave out what goes by the lengths of a batch's samples.
        """
        model.to(self.device)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
        if self._compile:
            for block in model.get_submodule(model.sharding().blocks).children():
                block.compile()
        return model

    def split(self, batch: AnyBatch) -> AnyBatch:
        return batch

    def autocast(self) -> AbstractContextManager[None]:
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    def backward(self, loss: Tensor) -> None:
        loss.backward()  # type: ignore[no-untyped-call]

    def clip(self, parameters: Iterable[nn.Parameter], limit: float) -> float:
        """The norm of all gradients together, before they were scaled down to ``limit``.

        A norm that is not finite is returned as it is and nothing is scaled (it would make every gradient NaN).
        """
        live = [p for p in parameters if p.grad is not None]
        total = get_total_norm([p.grad for p in live if p.grad is not None])
        norm = float(total)
        if limit and math.isfinite(norm) and norm > limit:
            clip_grads_with_norm_(live, limit, total)
        return norm

    def mean(self, values: Tensor) -> Tensor:
        """(K, 2) rows of (total, count) -> (K,) means; a count of zero gives NaN."""
        return values[:, 0] / values[:, 1]


def _device(asked: str) -> torch.device:
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if asked == "auto":
        return torch.device("cuda:0" if there else "cpu")
    device = torch.device(asked)
    if device.type == "cuda":
        if (device.index or 0) >= there:
            raise QiError(
                f"parallel.device: {asked!r} was asked for, but torch sees {there} CUDA device(s) here; "
                'use device = "auto" or "cpu", or check the driver and that this torch is built for CUDA'
            )
        device = torch.device("cuda", device.index or 0)
        torch.cuda.set_device(device)  # kernels that ask for "the current device" find the same one
    return device


def _need_compiler() -> None:
    """torch.compile writes C++ for the CPU; without a compiler it would fail in the first step."""
    if not any(shutil.which(name) for name in (os.environ.get("CXX"), "g++", "clang++") if name):
        raise QiError(
            "parallel.compile: torch.compile was asked for on the CPU, but there is no C++ compiler here "
            "(g++ or clang++ was wanted); install one, or use compile = false"
        )


def _dtype(asked: str, device: torch.device) -> torch.dtype:
    has_bf16 = device.type == "cpu" or torch.cuda.is_bf16_supported(including_emulation=False)
    if asked == "auto":
        return torch.bfloat16 if device.type == "cuda" and has_bf16 else torch.float32
    if asked == "bf16" and not has_bf16:
        raise QiError(
            f"parallel.precision: 'bf16' was asked for, but {torch.cuda.get_device_name(device)} has no bfloat16 "
            '(Ampere or newer was wanted); use precision = "fp32"'
        )
    return torch.bfloat16 if asked == "bf16" else torch.float32
