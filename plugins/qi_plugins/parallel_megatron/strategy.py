"""megatron-core at work."""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
from torch import Tensor, nn

from qi_core import devices
from qi_core.team import join, seat
from qi_plugins.parallel_megatron import library

if TYPE_CHECKING:
    from qi_core import DenoiserModule, Held, Sharding
    from qi_plugins.parallel_megatron.component import Megatron
    from qi_plugins.parallel_megatron.held import MegatronHeld


class LiveMegatron:
    """See ``qi_core.parallel.Strategy``."""

    def __init__(self, settings: Megatron) -> None:
        self.device = devices.device(settings.device, seat().local_rank)
        library.refuse_device(self.device)
        library.load()
        self.dtype = devices.dtype(settings.precision, self.device)
        self._te = library.choose_engine(settings.engine, settings.fp8, self.device)
        self._fp8, self._overlap, self._sequence = settings.fp8, settings.overlap, settings.sequence
        devices.settle(self.device, self.dtype, settings.threads)
        self.timeout = settings.timeout
        self.team = join(self.device, settings.timeout)
        self._grid = library.make_grid(settings.tensor, settings.timeout)
        self.replica, self.replicas = self._grid.data.rank(), self._grid.data.size()
        self._placed: WeakKeyDictionary[nn.Module, MegatronHeld] = WeakKeyDictionary()
        self._buffers: Any = None
        self._held: MegatronHeld | None = None

    @property
    def cradle(self) -> torch.device:
        """See ``qi_core.parallel.Dividing``: a GPU may be too small for all weights in float32."""
        return torch.device("cpu")

    def place(self, model: DenoiserModule, sharding: Sharding | None = None) -> DenoiserModule:
        """Divided over this replica's ranks, trained weights in megatron-core's buffers, in the dtype of the products.

        Frozen weights keep their dtype. The optimizer's float32 weights come from those that were given, unrounded; all
        of them stay where they are, and only what is computed with comes to the GPU.
        """
        from megatron.core.distributed import DistributedDataParallel

        from qi_plugins.parallel_megatron.held import MegatronHeld
        from qi_plugins.parallel_megatron.layers import divide

        sharding = sharding or model.sharding()
        cuts = divide(model, sharding, self._grid, self.dtype, self.device, te=self._te, sequence=self._sequence)
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        originals = {name: parameter.data.float() for name, parameter in trained.items()}
        for parameter in trained.values():
            parameter.data = parameter.data.to(self.dtype)
        model.to(self.device)
        buffers = None
        if trained:
            config = library.model_config(self._grid.split, self.dtype)
            settings = library.buffers_config(self._overlap, self.replicas)
            buffers = DistributedDataParallel(config, settings, model)
        overlap = buffers is not None and buffers.ddp_config.overlap_param_gather
        held = MegatronHeld(model, cuts, self._grid, buffers, originals, self.dtype, overlap)
        self._placed[model] = held
        if trained:
            self._buffers, self._held = buffers, held
        return model

    def held(self, model: DenoiserModule) -> Held:
        """Always the same of one model."""
        return self._placed[model]

    def autocast(self) -> AbstractContextManager[None]:
        """Weights have the dtype of the products, so there is nothing to cast; only 8-bit products are switched on."""
        if not self._fp8:
            return nullcontext()
        from qi_plugins.parallel_megatron.te import eight_bits

        return eight_bits()

    def backward(self, loss: Tensor, *, last: bool = True) -> None:
        with nullcontext() if last else self._buffers.no_sync():
            loss.backward()  # type: ignore[no-untyped-call]
            if last and self._buffers.ddp_config.overlap_grad_reduce:
                self._complete()

    def _complete(self) -> None:
        """A bucket's sum begins when all its gradients are there; those that this loss did not reach are zero."""
        for group in self._buffers.bucket_groups:
            for bucket in group.buckets:
                for parameter in bucket.params_list:
                    if parameter not in group.per_param_grad_ready_counts:
                        group.register_grad_ready(parameter)

    def clip(self, parameters: Iterable[nn.Parameter], limit: float) -> float:
        """The norm of all gradients together, before they were scaled down to ``limit``.

        A norm that is not finite is returned as it is and nothing is scaled (it would make every gradient NaN).
        """
        assert self._held is not None
        self._held.collect()
        norm = self._held.norm()
        if limit and math.isfinite(norm) and norm > limit:
            self._held.scale(limit / (norm + 1e-6))
        return norm

    def sum(self, values: Tensor) -> Tensor:
        """Over all ranks, and divided by those of a replica: they compute the same, but for signals that one may get
        alone, and must all be told the same."""
        total = values.clone()
        dist.all_reduce(total)
        return total / self._grid.split
