"""One device at work."""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from qi_core import Whole, devices
from qi_core.team import Alone

if TYPE_CHECKING:
    from qi_core import DenoiserModule, Held, Sharding
    from qi_plugins.parallel_single.component import Single


class LiveSingle:
    """See ``qi_core.parallel.Strategy``."""

    team = Alone()
    replica, replicas = 0, 1
    timeout = 0.0

    def __init__(self, settings: Single) -> None:
        self.device = devices.device(settings.device)
        self.dtype = devices.dtype(settings.precision, self.device)
        self._compile = settings.compile
        if settings.compile and self.device.type == "cpu":
            devices.need_compiler()
        devices.settle(self.device, self.dtype, settings.threads)

    def place(self, model: DenoiserModule, sharding: Sharding | None = None) -> DenoiserModule:
        """On the device, trained weights in float32, blocks compiled one by one.

        Blocks are compiled in place by their own ``compile``: the names of parameters stay, one compilation serves all
        blocks, and a block may leave out what goes by the lengths of a batch's samples.
        """
        model.to(self.device)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
        if self._compile:
            for block in model.get_submodule((sharding or model.sharding()).blocks).children():
                block.compile()
        return model

    def held(self, model: DenoiserModule) -> Held:
        return Whole(model)

    def autocast(self) -> AbstractContextManager[None]:
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    def backward(self, loss: Tensor, *, last: bool = True) -> None:
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

    def sum(self, values: Tensor) -> Tensor:
        return values
