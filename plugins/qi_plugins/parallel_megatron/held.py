"""What a rank holds under megatron-core's distributed optimizer.

Trained weights, gradients and the optimizer's state are flat *stretches*: all trained weights of a tensor-parallel rank
lie in one buffer, and each replica keeps its own stretch of every bucket of it. So of a weight a rank may have all, a
run from somewhere in a row to somewhere in another, or nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from torch import Tensor, nn

from qi_core.shards import Part
from qi_plugins.parallel_megatron.layers import Cut
from qi_plugins.parallel_megatron.library import Grid, optimizer_config


def stretches(buffers: Any) -> dict[nn.Parameter, tuple[int, int]]:
    """Of each trained parameter, the values (from, to) that this replica keeps; parameters it keeps nothing of are
    left out."""
    return {
        parameter: (found["param"].start, found["param"].end)
        for buffer in buffers.buffers
        for buckets in DistributedOptimizer._build_gbuf_range_map(buffer).values()
        for bucket in buckets
        for parameter, found in bucket["param_map"].items()
    }


def boxes(shape: Sequence[int], start: int, stop: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Values ``start`` to ``stop`` of a contiguous tensor as boxes (offsets, shape), in order: of a matrix at most the
    end of a row, whole rows, and the beginning of one."""
    if stop <= start:
        return []
    if len(shape) < 2:
        return [((start,) * len(shape), (stop - start,) * len(shape))]
    row = prod(shape[1:])
    first, last = start // row, stop // row
    if start % row == 0 and last > first:
        whole = ((first, *(0 for _ in shape[1:])), (last - first, *shape[1:]))
        return [whole, *boxes(shape, last * row, stop)]
    end = min(stop, (first + 1) * row)
    inner = boxes(shape[1:], start - first * row, end - first * row)
    return [((first, *at), (1, *size)) for at, size in inner] + boxes(shape, end, stop)


class MegatronHeld:
    """See ``qi_core.shards.Held``."""

    def __init__(
        self,
        model: nn.Module,
        cuts: Mapping[str, Cut],
        grid: Grid,
        buffers: Any,
        originals: Mapping[str, Tensor],
        dtype: torch.dtype,
        overlap: bool,
    ) -> None:
        """``buffers``: megatron-core's, of the trained parameters; None if there are none. ``originals``: these, of
        this tensor-parallel rank, in float32, wherever they are."""
        self._cuts, self._grid, self._buffers = cuts, grid, buffers
        self._dtype, self._overlap = dtype, overlap
        self._model = model
        self._live = {name: p for name, p in model.named_parameters() if p.requires_grad}
        kept = stretches(buffers) if buffers is not None else {}
        self._stretches = {name: kept.get(p, (0, 0)) for name, p in self._live.items()}
        self.trained: Mapping[str, nn.Parameter] = {
            name: nn.Parameter(self._piece(name, originals[name])) for name in self._live
        }
        self._optimizer: Any = None

    def _piece(self, name: str, original: Tensor) -> Tensor:
        """The float32 values that are updated: the model's own where it is float32, else a copy."""
        live, (start, stop) = self._live[name].data, self._stretches[name]
        if live.dtype == torch.float32:
            return live.view(-1)[start:stop]
        return original.reshape(-1)[start:stop].to(live.device, copy=True)

    @property
    def frozen(self) -> Mapping[str, Tensor]:
        """See ``Held``. Read off the modules: TransformerEngine's put more than tensors into their state."""
        found = {name: p.detach() for name, p in self._model.named_parameters() if name not in self.trained}
        for path, module in self._model.named_modules():
            kept = (name for name in module._buffers if name not in module._non_persistent_buffers_set)
            found |= {f"{path}.{name}".lstrip("."): b for name in kept if (b := module._buffers[name]) is not None}
        return found

    def shape(self, name: str) -> tuple[int, ...]:
        """See ``Held``."""
        own = self._local(name)
        cut = self._cuts.get(name, Cut()).dim
        return tuple(n * self._grid.split if dim == cut else n for dim, n in enumerate(own))

    def _local(self, name: str) -> tuple[int, ...]:
        return tuple((self._live[name] if name in self._live else self.frozen[name]).shape)

    def parts(self, name: str, piece: Tensor) -> Sequence[Part]:
        """See ``Held``."""
        grid, shape, cut = self._grid, self.shape(name), self._cuts.get(name, Cut()).dim
        own = self._local(name)
        moved = tuple(grid.place * own[dim] if dim == cut else 0 for dim in range(len(own)))
        if name not in self._live:
            copy, copies = grid.data.rank(), grid.data.size()
            if cut is None:
                copy, copies = dist.get_rank(), dist.get_world_size()
            return (Part(tensor=piece.detach(), shape=shape, offsets=moved, copy=copy, copies=copies),)
        copy, copies = (grid.place, grid.split) if cut is None else (0, 1)
        found, at, flat = [], 0, piece.detach()
        for offsets, size in boxes(own, *self._stretches[name]):
            here = tuple(a + b for a, b in zip(offsets, moved, strict=True))
            count = prod(size)
            values = flat[at : at + count].view(size)
            found.append(Part(tensor=values, shape=shape, offsets=here, copy=copy, copies=copies))
            at += count
        return found

    @torch.no_grad()
    def exchange(self, copies: Mapping[str, Tensor]) -> None:
        """See ``Held``. Contents change places, for megatron-core knows its tensors by where they lie."""
        for name, copy in copies.items():
            before = self.trained[name].detach().clone()
            self.trained[name].copy_(copy)
            copy.copy_(before)
        self.spread()

    @torch.no_grad()
    def spread(self) -> None:
        """See ``Held``."""
        if self._buffers is None:
            return
        for group in self._buffers.bucket_groups:
            if group.param_gather_handle is not None:  # this call waits for what is under way, and does no more
                group.start_param_sync(force_sync=True)
        for name, live in self._live.items():
            start, stop = self._stretches[name]
            live.data.view(-1)[start:stop].copy_(self.trained[name])
        self._buffers.start_param_sync(force_sync=True)

    def drive(self, optimizer: torch.optim.Optimizer) -> Callable[[], None]:
        """See ``Held``. megatron-core's optimizer is built around it, and made to work on ``trained``."""
        names = {parameter: name for name, parameter in self._live.items()}
        groups = [[names[parameter] for parameter in group["params"]] for group in optimizer.param_groups]
        with torch.no_grad():  # its stretches of float32 parameters are views; with a history they were no leaves
            driven = DistributedOptimizer(
                optimizer=optimizer,
                config=optimizer_config(self._dtype, self._overlap),
                grad_scaler=None,
                init_state_fn=None,
                model_chunks=[self._buffers],
                per_model_buffers={0: self._buffers.buffers},
                data_parallel_group=self._grid.data,
                data_parallel_group_gloo=None,
                data_parallel_group_idx=self._grid.place,
                distributed_optimizer_instance_id=0,
            )
        for models, mains in (
            (driven.model_float16_groups, driven.shard_fp32_from_float16_groups),
            (driven.model_fp32_groups, driven.shard_fp32_groups),
        ):
            for of_model, of_main in zip(models, mains, strict=True):
                of_main[:] = [self.trained[names[parameter]] for parameter in of_model]
        for group, own in zip(optimizer.param_groups, groups, strict=True):
            group["params"] = [self.trained[name] for name in own]  # empty ones too: all ranks keep state of all names
        self._optimizer = driven
        return self._update

    def _update(self) -> None:
        self._optimizer.step_with_ready_grads()

    def collect(self) -> None:
        """Gradients summed over all ranks, as ``.grad`` of ``trained``."""
        self._buffers.finish_grad_sync()
        self._optimizer.prepare_grads()
        for piece in self.trained.values():
            if not piece.numel():
                piece.grad = torch.zeros_like(piece)
        if self._grid.split > 1:
            self._add_partial()

    def _add_partial(self) -> None:
        """In one message: stretches of all ranks of a replica are the same, for their buffers are laid out alike."""
        grads = self._grads(lambda cut: cut.partial)
        if not grads:
            return
        whole = torch.cat(grads)
        dist.all_reduce(whole, group=self._grid.tensor)
        summed = torch.split(whole, [grad.numel() for grad in grads])
        torch._foreach_copy_(grads, list(summed))

    def norm(self) -> float:
        """Of all gradients together; what every rank of a replica holds is counted once."""
        own = self._grads(lambda cut: cut.dim is not None or self._grid.place == 0)
        squares = torch.zeros((), dtype=torch.float64, device=next(iter(self._live.values())).device)
        if own:
            squares += torch.stack(torch._foreach_norm(own)).double().square().sum()
        dist.all_reduce(squares)
        return float(squares.sqrt())

    def scale(self, factor: float) -> None:
        """All gradients."""
        if own := self._grads(lambda _: True):
            torch._foreach_mul_(own, factor)

    def _grads(self, which: Callable[[Cut], bool]) -> list[Tensor]:
        """Those that are not empty, of some of the weights."""
        pieces = [piece for name, piece in self.trained.items() if which(self._cuts[name])]
        return [piece.grad for piece in pieces if piece.grad is not None and piece.numel()]

    def clear(self) -> None:
        """See ``Held``."""
        self._buffers.zero_grad_buffer()
        self._optimizer.zero_grad()
        for piece in self.trained.values():
            piece.grad = None
