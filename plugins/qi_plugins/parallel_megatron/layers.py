"""How a model is divided over tensor-parallel ranks: its ``Sharding``, carried out.

Plain linear layers become megatron-core's Column- and RowParallelLinear, or TransformerEngine's between megatron-core's
mappings; layers derived from ``nn.Linear`` (adapters') keep their forward, with their parameters divided and the
mappings around it. Imported once megatron-core is there.

Traffic of a block and stream, T = bytes of its tokens: one sum at the end of attention and one at the end of the MLP
going forward (``rows``), one at the beginning of each going back (``entries``). Layers that each summed the gradients
of their own inputs, as ColumnParallelLinear does by itself, would send three times as much for q, k and v.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, cast

import torch
from attrs import frozen
from megatron.core.tensor_parallel import (
    ColumnParallelLinear,
    RowParallelLinear,
    copy_to_tensor_model_parallel_region,
    gather_from_tensor_model_parallel_region,
    reduce_from_tensor_model_parallel_region,
    set_tensor_model_parallel_attributes,
)
from torch import Tensor, nn

from qi_core import QiError
from qi_plugins.parallel_megatron.library import Grid, model_config

if TYPE_CHECKING:
    from qi_core import DenoiserModule, Sharding
    from qi_core.denoiser import Split

DIVIDED: dict[str, int] = {"rows": 1, "columns": 0, "heads": 0, "gathered": 0}
"""Along which dimension."""


@frozen(kw_only=True)
class Cut:
    """What a rank has of a parameter."""

    dim: int | None = None
    """Along which it is divided over the ranks of a replica. None: each has all of it."""
    partial: bool = False
    """Each has all of it, and its part of the gradient."""


def divide(model: DenoiserModule, sharding: Sharding, grid: Grid, dtype: torch.dtype, te: bool) -> dict[str, Cut]:
    """Leave this rank its part of a whole model, in place; what it has of each parameter.

    ``te``: linear layers are TransformerEngine's. Raises QiError where the model cannot be divided so.
    """
    splits = {name: _split(sharding, name) for name, _ in model.named_parameters()}
    _check(model, sharding, splits, grid.split)
    cuts = {name: _cut(split) for name, split in splits.items()}
    config = model_config(grid.split, dtype)
    for name, module in list(model.named_modules()):
        split = splits.get(f"{name}.weight", "replicated")
        if split in DIVIDED:
            assert isinstance(module, nn.Linear)
            shards = {
                leaf: _shard(parameter, cuts[f"{name}.{leaf}"], grid)
                for leaf, parameter in module.named_parameters(recurse=False)
            }
            owner, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(owner), leaf, _layer(module, split, shards, grid, config, dtype, te))
        elif any(fnmatchcase(name, pattern) for pattern in sharding.entries):
            owner, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(owner), leaf, Entry(grid))
    for name, parameter in model.named_parameters():
        if (dim := cuts[name].dim) is not None:
            set_tensor_model_parallel_attributes(parameter, True, dim, 1)
    return cuts


def _split(sharding: Sharding, name: str) -> Split:
    """The last pattern that matches: an adapter's come after the model's."""
    found: Split = "replicated"
    for pattern, split in sharding.weights.items():
        if fnmatchcase(name, pattern):
            found = split
    return found


def _cut(split: Split) -> Cut:
    return Cut(dim=DIVIDED.get(split), partial=split == "partial")


def _check(model: DenoiserModule, sharding: Sharding, splits: dict[str, Split], degree: int) -> None:
    """Raises QiError, one line, if the model cannot be divided by this degree."""
    if degree == 1:
        return
    if "heads" in splits.values() and sharding.heads % degree:
        degrees = ", ".join(str(n) for n in range(1, sharding.heads + 1) if sharding.heads % n == 0)
        raise QiError(
            f"parallel.tensor: {degree} does not divide the {sharding.heads} attention heads of this denoiser; "
            f"set it to one of {degrees}"
        )
    for name, parameter in model.named_parameters():
        dim = DIVIDED.get(splits[name])
        if dim is not None and (dim >= parameter.ndim or parameter.shape[dim] % degree):
            raise QiError(
                f"parallel.tensor: {degree} does not divide {name}, {tuple(parameter.shape)}, by {splits[name]}; "
                "choose another degree"
            )
        module = model.get_submodule(name.rpartition(".")[0])
        if dim is not None and not isinstance(module, nn.Linear):
            raise QiError(
                f"parallel.tensor: {name} is divided by {splits[name]}, but {type(module).__name__} is no linear "
                "layer; set tensor = 1 for this denoiser"
            )
    enters = any(fnmatchcase(name, one) for name, _ in model.named_modules() for one in sharding.entries)
    if not enters and {"columns", "heads"} & set(splits.values()):
        raise QiError(
            "parallel.tensor: this denoiser does not say where tensors enter its divided layers (Sharding.entries), "
            "so gradients would be wrong; set tensor = 1"
        )


def _shard(parameter: nn.Parameter, cut: Cut, grid: Grid) -> nn.Parameter:
    """This rank's part, in memory of its own."""
    if cut.dim is None or grid.split == 1:
        return parameter
    mine = parameter.detach().chunk(grid.split, cut.dim)[grid.place].clone(memory_format=torch.contiguous_format)
    return nn.Parameter(mine, requires_grad=parameter.requires_grad)


def _layer(
    module: nn.Linear,
    split: Split,
    shards: dict[str, nn.Parameter],
    grid: Grid,
    config: Any,
    dtype: torch.dtype,
    te: bool,
) -> nn.Module:
    """What stands in a linear layer's place."""
    layer: Any = module
    if type(module) is nn.Linear and len({parameter.requires_grad for parameter in shards.values()}) == 1:
        if te:
            from qi_plugins.parallel_megatron.te import make_linear

            layer = make_linear(split, shards, grid, dtype)
        else:
            layer = _megatron(module, split, grid, config)
    else:
        layer.__class__ = _around(type(module), split)  # in place: an adapter knows its layers
        layer.grid = grid
    for leaf, parameter in shards.items():
        setattr(layer, leaf, parameter)
    layer.train(module.training)
    return cast("nn.Module", layer)


def _megatron(module: nn.Linear, split: Split, grid: Grid, config: Any) -> nn.Module:
    """megatron-core's layer; its own weights take no memory, for others take their place."""
    asked: dict[str, Any] = {"config": config, "init_method": None, "bias": module.bias is not None}
    with torch.device("meta"):
        layer: nn.Module
        if split == "rows":
            layer = Rows(
                module.in_features,
                module.out_features,
                input_is_parallel=True,
                skip_bias_add=False,
                tp_group=grid.tensor,
                **asked,
            )
        else:
            layer = Columns(
                module.in_features,
                module.out_features,
                gather_output=split == "gathered",
                disable_grad_reduce=True,
                tp_group=grid.tensor,
                **asked,
            )
    layer._load_state_dict_pre_hooks.clear()  # they ask for an entry that only its own checkpoints have
    return layer


def _flat(work: Any, x: Tensor) -> Tensor:
    """megatron-core's products take two dimensions, or three."""
    out: Tensor = work(x.reshape(-1, x.shape[-1]))[0]
    return out.view(*x.shape[:-1], out.shape[-1])


class Columns(ColumnParallelLinear):  # type: ignore[misc]
    """Output features divided, and put together at once where it was made so."""

    get_extra_state, set_extra_state = nn.Module.get_extra_state, nn.Module.set_extra_state

    def forward(self, x: Tensor) -> Tensor:
        return _flat(super().forward, enter(x, self.tp_group) if self.gather_output else x)


class Rows(RowParallelLinear):  # type: ignore[misc]
    """Input features divided, outputs summed, then comes the bias."""

    get_extra_state, set_extra_state = nn.Module.get_extra_state, nn.Module.set_extra_state

    def forward(self, x: Tensor) -> Tensor:
        return _flat(super().forward, x)


def enter(x: Tensor, group: Any) -> Tensor:
    """x, whose gradients are parts: they are summed over the ranks of a replica."""
    # megatron-core 0.16.1 gives a tensor back unsummed if it is not contiguous, so see to that, going back too.
    out: Tensor = _Contiguous.apply(copy_to_tensor_model_parallel_region(x, group))  # type: ignore[no-untyped-call]
    return out


class _Contiguous(torch.autograd.Function):
    """Nothing, but for the gradient's layout."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0].contiguous()


class Entry(nn.Module):
    """Where tensors that every rank of a replica has go into layers of which each has a part."""

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self.grid = grid

    def forward(self, x: Tensor) -> Tensor:
        return enter(x, self.grid.tensor)


def _around(kind: type[nn.Module], split: Split) -> type[nn.Module]:
    """A linear layer's class with the mappings around its forward."""
    around = {"rows": _RowsAround, "gathered": _GatheredAround}.get(split)
    return kind if around is None else type(f"{kind.__name__}By{split.title()}", (around, kind), {})


class _GatheredAround:
    """Before a class derived from ``nn.Linear``."""

    grid: Grid

    def forward(self, x: Tensor) -> Tensor:
        part = super().forward(enter(x, self.grid.tensor))  # type: ignore[misc]
        out: Tensor = gather_from_tensor_model_parallel_region(part, self.grid.tensor)
        return out


class _RowsAround:
    """The same. The bias is kept from its forward: it comes after the sum, once."""

    grid: Grid
    _parameters: dict[str, Tensor | None]

    def forward(self, x: Tensor) -> Tensor:
        bias, self._parameters["bias"] = self._parameters["bias"], None
        try:
            part = super().forward(x)  # type: ignore[misc]
        finally:
            self._parameters["bias"] = bias
        out: Tensor = reduce_from_tensor_model_parallel_region(part.contiguous(), self.grid.tensor)
        return out if bias is None else out + bias
