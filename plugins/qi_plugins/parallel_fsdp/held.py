"""What a rank holds of a model that FSDP and tensor parallelism have divided."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from attrs import frozen
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from qi_core.shards import Part

if TYPE_CHECKING:
    from qi_core import DenoiserModule
    from qi_plugins.parallel_fsdp.grid import Grid


@frozen(kw_only=True)
class Where:
    """A box of a whole tensor."""

    shape: tuple[int, ...]
    """Of the whole."""
    offsets: tuple[int, ...]
    copy: int
    copies: int


class Pieces:
    """``qi_core.shards.Held`` of plain local tensors: views of what FSDP keeps, so that an optimizer, an average and a
    checkpoint need to know nothing of it."""

    def __init__(
        self,
        model: DenoiserModule,
        shapes: Mapping[str, tuple[int, ...]],
        dimensions: Mapping[str, int],
        grid: Grid,
        rank: int,
    ) -> None:
        """``shapes``: of the whole tensors. ``dimensions``: along which some are divided by tensor parallelism."""
        self._model = model
        self._shapes = dict(shapes)
        parameters = dict(model.named_parameters())
        tensors = {**parameters, **{name: b for name, b in model.named_buffers() if name in shapes}}
        self._tensors = {name: tensors[name] for name in shapes}
        self._where = {
            name: _where(tensor, self._shapes[name], dimensions.get(name), grid, rank)
            for name, tensor in self._tensors.items()
        }
        self.live = {name: p for name, p in parameters.items() if p.requires_grad}
        """The model's own parameters."""
        self.trained: Mapping[str, nn.Parameter] = {
            name: nn.Parameter(local(p)) if isinstance(p, DTensor) else p for name, p in self.live.items()
        }
        self.frozen: Mapping[str, Tensor] = {
            name: local(tensor) for name, tensor in self._tensors.items() if name not in self.trained
        }

    def shape(self, name: str) -> tuple[int, ...]:
        """See ``Held``."""
        return self._shapes[name]

    def copies(self, name: str) -> int:
        """How many ranks hold each value of it."""
        return self._where[name].copies

    def parts(self, name: str, piece: Tensor) -> Sequence[Part]:
        """See ``Held``. FSDP divides rows into equal stretches, of which the last ones may be short or empty."""
        where = self._where[name]
        if not piece.numel():
            return ()
        part = Part(
            tensor=piece.detach(), shape=where.shape, offsets=where.offsets, copy=where.copy, copies=where.copies
        )
        return (part,)

    def exchange(self, copies: Mapping[str, Tensor]) -> None:
        """See ``Held``. Values change places and not tensors: FSDP gathers from storage of its own."""
        with torch.no_grad():
            for name, copy in copies.items():
                live = self.trained[name]
                before = live.clone()
                live.copy_(copy)
                copy.copy_(before)
        self.spread()
        torch.clear_autocast_cache()

    def spread(self) -> None:
        """See ``Held``. Nothing stays gathered, so the next pass gathers the new values."""
        for module in self._model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()

    def drive(self, optimizer: torch.optim.Optimizer) -> Callable[[], None]:
        """See ``Held``."""
        pieces = {parameter: self.trained[name] for name, parameter in self.live.items()}
        for group in optimizer.param_groups:
            group["params"] = [pieces[parameter] for parameter in group["params"]]
        return optimizer.step

    def show_gradients(self) -> None:
        """Each piece gets what FSDP left with the model's parameter."""
        for name, parameter in self.live.items():
            piece = self.trained[name]
            if piece is not parameter:
                piece.grad = None if parameter.grad is None else local(parameter.grad)

    def clear(self) -> None:
        """See ``Held``."""
        for name, parameter in self.live.items():
            parameter.grad = self.trained[name].grad = None


def local(tensor: Tensor) -> Tensor:
    """This rank's values, the very ones."""
    if not isinstance(tensor, DTensor):
        return tensor.detach()
    with torch.no_grad():  # outside, torch gives a view that hangs on a graph
        own: Tensor = tensor.to_local()
    return own


def _where(tensor: Tensor, shape: tuple[int, ...], dimension: int | None, grid: Grid, rank: int) -> Where:
    """First tensor parallelism cuts along a dimension of its own, then FSDP cuts rows of what is left."""
    copy, shard, tensor_rank = grid.at(rank)
    copies = grid.copies
    offsets, rest = [0] * len(shape), list(shape)
    if dimension is None:
        copy, copies = copy * grid.tensor + tensor_rank, copies * grid.tensor
    else:
        rest[dimension] //= grid.tensor
        offsets[dimension] = tensor_rank * rest[dimension]
    if isinstance(tensor, DTensor):
        stretch = -(-rest[0] // grid.shards)  # as torch.chunk cuts
        begin = min(shard * stretch, rest[0])
        offsets[0] += begin
        rest[0] = min(stretch, rest[0] - begin)
    else:
        copy, copies = copy * grid.shards + shard, copies * grid.shards
    assert tuple(local(tensor).shape) == tuple(rest), f"{tuple(local(tensor).shape)} is held, {rest} was meant"
    return Where(shape=shape, offsets=tuple(offsets), copy=copy, copies=copies)
