"""Tensor parallelism: a denoiser's ``Sharding``, carried out on its plain linear layers.

Weights become this rank's part of them, and where tensors pass between "every rank has it all" and "every rank has its
own part" they go through the functions below, each with its derivative (Shoeybi et al. 2019, arXiv 1909.08053, figure
3). torch's DTensor is not used for it: attention and the norms of heads are functions of our own that know nothing of
it, and gradients of ``partial`` weights would need rules for each of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from attrs import frozen
from torch import Tensor, nn

from qi_core import QiError
from qi_core.denoiser import DIMENSION
from qi_core.planning import divisors

if TYPE_CHECKING:
    from qi_core import DenoiserModule, Sharding


@frozen(kw_only=True)
class Divided:
    """What was done with the weights."""

    dimensions: Mapping[str, int]
    """Name -> the dimension it is divided along; others are whole on every rank."""
    partial: frozenset[str]
    """Names of trained weights whose gradients are to be summed over the ranks."""


def divide(model: DenoiserModule, sharding: Sharding, rank: int, group: dist.ProcessGroup) -> Divided:
    """Keep this rank's part of each weight and let it compute with that. Raises QiError where heads or features cannot
    be divided by the number of ranks."""
    degree = group.size()
    if sharding.heads % degree:
        raise QiError(
            f"parallel.tensor: {degree} does not divide the denoiser's {sharding.heads} attention heads; "
            f"set it to one of {divisors(sharding.heads)}"
        )
    splits = {name: sharding.split(name) for name, _ in model.named_parameters()}
    dimensions = {name: DIMENSION[split] for name, split in splits.items() if split in DIMENSION}
    for name, parameter in model.named_parameters():
        if name in dimensions:
            parameter.data = _part(name, parameter.data, dimensions[name], rank, degree)
    for name, module in model.named_modules():
        if any(fnmatchcase(name, pattern) for pattern in sharding.entries):
            module.forward = _entry(group)
        elif isinstance(module, nn.Linear) and splits[f"{name}.weight"] in ("rows", "gathered"):
            wrap = _rows if splits[f"{name}.weight"] == "rows" else _gathered
            module.forward = wrap(module, module.forward, group)  # type: ignore[method-assign,assignment]
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    partial = frozenset(name for name in trained if splits[name] == "partial")
    return Divided(dimensions=dimensions, partial=partial)


def _part(name: str, whole: Tensor, dimension: int, rank: int, degree: int) -> Tensor:
    size = whole.shape[dimension]
    if size % degree:
        raise QiError(
            f"parallel.tensor: {degree} does not divide the {size} features of {name}; "
            "choose a degree that divides the denoiser's widths"
        )
    return whole.narrow(dimension, rank * (size // degree), size // degree).clone()


def _entry(group: dist.ProcessGroup) -> Callable[[Tensor], Tensor]:
    return lambda x: _enter(x, group)


def _rows(module: nn.Linear, inner: Callable[[Tensor], Tensor], group: dist.ProcessGroup) -> Callable[[Tensor], Tensor]:
    """Each rank gives its part of a sum; the bias is added once, after it."""

    def forward(x: Tensor) -> Tensor:
        bias = module._parameters["bias"]
        module._parameters["bias"] = None  # whatever the layer is made of, it leaves out one that is not there
        try:
            out = inner(x)
        finally:
            module._parameters["bias"] = bias
        total: Tensor = _leave(out, group)
        return total if bias is None else total + bias.to(total.dtype)

    return forward


def _gathered(
    module: nn.Linear, inner: Callable[[Tensor], Tensor], group: dist.ProcessGroup
) -> Callable[[Tensor], Tensor]:
    """Each rank gives some of the output features; every rank gets all."""
    return lambda x: _gather(inner(_enter(x, group)), group)


class _Enter(torch.autograd.Function):
    """Here every rank has the same. Backward: each has a part of the gradient, which is their sum."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _summed(grads[0], ctx.group), None


class _Leave(torch.autograd.Function):
    """Each rank has a part of a sum; every rank gets the sum. Backward: every rank has the gradient already."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        return _summed(x, group)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


class _Gather(torch.autograd.Function):
    """Each rank has some of the columns; every rank gets all. Backward: each takes its own."""

    @staticmethod
    def forward(ctx: Any, x_NC: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.rank, ctx.degree = group.rank(), group.size()
        parts = [torch.empty_like(x_NC, memory_format=torch.contiguous_format) for _ in range(ctx.degree)]
        dist.all_gather(parts, x_NC.contiguous(), group=group)
        return torch.cat(parts, dim=-1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0].chunk(ctx.degree, dim=-1)[ctx.rank].contiguous(), None


def _summed(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    """A new tensor: what autograd was given stays as it is."""
    total = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total, group=group)
    return total


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _enter(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    out: Tensor = _Enter.apply(x, group)  # type: ignore[no-untyped-call]
    return out


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _leave(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    out: Tensor = _Leave.apply(x, group)  # type: ignore[no-untyped-call]
    return out


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _gather(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    out: Tensor = _Gather.apply(x, group)  # type: ignore[no-untyped-call]
    return out
