"""How a model is divided over tensor-parallel ranks: its ``Sharding``, carried out.

Plain linear layers become megatron-core's Column- and RowParallelLinear, or TransformerEngine's between megatron-core's
mappings; layers derived from ``nn.Linear`` (adapters') keep their forward, with their parameters divided and the
mappings around it. Imported once megatron-core is there.

Traffic of a block and stream, T = bytes of its tokens: one sum at the end of attention and one at the end of the MLP
going forward (``rows``), one at the beginning of each going back (``entries``). Layers that each summed the gradients
of their own inputs, as ColumnParallelLinear does by itself, would send three times as much for q, k and v.

With sequence parallelism (Korthikanti et al. 2022, arXiv 2205.05198, section 4.2.2) each rank has a stretch of the
tokens between the products, so each sum is taken apart: its scattering half ends the products, its gathering half
begins the next ones. What a replicated weight does to a stretch is a part of its gradient.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from attrs import frozen
from megatron.core.tensor_parallel import (
    ColumnParallelLinear,
    RowParallelLinear,
    copy_to_tensor_model_parallel_region,
    gather_from_sequence_parallel_region,
    gather_from_tensor_model_parallel_region,
    reduce_from_tensor_model_parallel_region,
    reduce_scatter_to_sequence_parallel_region,
    scatter_to_sequence_parallel_region,
    set_tensor_model_parallel_attributes,
)
from megatron.core.tensor_parallel.mappings import all_gather_last_dim_from_tensor_parallel_region
from torch import Tensor, nn

from qi_core import QiError
from qi_core.denoiser import DIMENSION, Stretched
from qi_core.planning import divisors
from qi_plugins.parallel_megatron.library import Grid, model_config

if TYPE_CHECKING:
    from qi_core import DenoiserModule, Sharding
    from qi_core.denoiser import Split


@frozen(kw_only=True)
class Cut:
    """What a rank has of a parameter."""

    dim: int | None = None
    """Along which it is divided over the ranks of a replica. None: each has all of it."""
    partial: bool = False
    """Each has all of it, and its part of the gradient."""


def divide(
    model: DenoiserModule,
    sharding: Sharding,
    grid: Grid,
    dtype: torch.dtype,
    device: torch.device,
    *,
    te: bool,
    sequence: bool,
) -> dict[str, Cut]:
    """Leave this rank its part of a whole model, in place; what it has of each parameter.

    ``device``: where it will compute; nothing is brought there. ``te``: linear layers and attention are
    TransformerEngine's. ``sequence``: tokens are divided too. Raises QiError where the model cannot be divided so.
    """
    splits = {name: sharding.split(name) for name, _ in model.named_parameters()}
    _check(model, sharding, splits, grid.split)
    stretched = divide_tokens(model, sharding, grid) if sequence else ()
    cuts = {name: _cut(split) for name, split in splits.items()}
    for name, module in list(model.named_modules()):
        ways = Ways(grid=grid, sequence=any(name.startswith(f"{block}.") for block in stretched))
        split = splits.get(f"{name}.weight", "replicated")
        if split in DIMENSION:
            assert isinstance(module, nn.Linear)
            if split == "rows" and ways.sequence and module.bias is not None:
                cuts[f"{name}.bias"] = Cut(partial=True)  # added to this rank's tokens
            shards = {
                leaf: _shard(parameter, cuts[f"{name}.{leaf}"], grid)
                for leaf, parameter in module.named_parameters(recurse=False)
            }
            _put(model, name, _layer(module, split, shards, ways, dtype, device if te else None))
        elif any(fnmatchcase(name, pattern) for pattern in sharding.entries):
            _put(model, name, Entry(ways))
        elif te and any(fnmatchcase(name, pattern) for pattern in sharding.attentions):
            from qi_plugins.parallel_megatron.te import TEAttention

            _put(model, name, TEAttention(module))
    for name, parameter in model.named_parameters():
        if (dim := cuts[name].dim) is not None:
            set_tensor_model_parallel_attributes(parameter, True, dim, 1)
    return cuts


def divide_tokens(model: DenoiserModule, sharding: Sharding, grid: Grid) -> tuple[str, ...]:
    """Tell the network which stretch of the tokens it gets, and put in where they part and meet; in which blocks.

    Raises QiError where it cannot be told.
    """
    if sharding.stretches is None or not isinstance(model, Stretched):
        raise QiError(
            f"parallel.sequence: {type(model).__name__} does not say how its tokens may be divided "
            "(Sharding.stretches); set sequence = false"
        )
    model.stretch(grid.place, grid.split)
    _put(model, sharding.stretches.begin, Parting(grid))
    _put(model, sharding.stretches.end, Meeting(grid))
    return sharding.stretches.blocks


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    owner, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(owner), leaf, module)


def _cut(split: Split) -> Cut:
    return Cut(dim=DIMENSION.get(split), partial=split == "partial")


def _check(model: DenoiserModule, sharding: Sharding, splits: dict[str, Split], degree: int) -> None:
    """Raises QiError, one line, if the model cannot be divided by this degree."""
    if degree == 1:
        return
    if "heads" in splits.values() and sharding.heads % degree:
        raise QiError(
            f"parallel.tensor: {degree} does not divide the {sharding.heads} attention heads of this denoiser; "
            f"set it to one of {divisors(sharding.heads)}"
        )
    for name, parameter in model.named_parameters():
        dim = DIMENSION.get(splits[name])
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
    ways: Ways,
    dtype: torch.dtype,
    engine: torch.device | None,
) -> nn.Module:
    """What stands in a linear layer's place. ``engine``: the device of TransformerEngine's, if they are to be used."""
    layer: Any = module
    if type(module) is nn.Linear and len({parameter.requires_grad for parameter in shards.values()}) == 1:
        if engine is not None:
            from qi_plugins.parallel_megatron.te import make_linear

            layer = make_linear(split, shards, ways, dtype, engine)
        else:
            layer = _megatron(module, split, ways, dtype)
    else:
        layer.__class__ = _around(type(module), split)  # in place: an adapter knows its layers
        layer.ways = ways
    for leaf, parameter in shards.items():
        setattr(layer, leaf, parameter)
    layer.train(module.training)
    return cast("nn.Module", layer)


def _megatron(module: nn.Linear, split: Split, ways: Ways, dtype: torch.dtype) -> nn.Module:
    """megatron-core's layer; its own weights take no memory, for others take their place."""
    sequence = ways.sequence and split == "rows"  # ``Entry`` puts the tokens together, once for q, k and v
    asked: dict[str, Any] = {
        "config": model_config(ways.grid.split, dtype, sequence=sequence),
        "init_method": None,
        "bias": module.bias is not None,
        "tp_group": ways.grid.tensor,
    }
    sizes = module.in_features, module.out_features
    with torch.device("meta"):
        if split == "rows":
            layer: Rows | Columns = Rows(*sizes, input_is_parallel=True, skip_bias_add=False, **asked)
        else:
            layer = Columns(*sizes, gather_output=False, disable_grad_reduce=True, **asked)
    layer.ways, layer.gathers = ways, split == "gathered"
    layer._load_state_dict_pre_hooks.clear()  # they ask for an entry that only its own checkpoints have
    return cast("nn.Module", layer)


def _flat(work: Any, x: Tensor) -> Tensor:
    """megatron-core's products take two dimensions, or three."""
    out: Tensor = work(x.reshape(-1, x.shape[-1]))[0]
    return out.view(*x.shape[:-1], out.shape[-1]) if x.ndim > 2 else out


class Columns(ColumnParallelLinear):  # type: ignore[misc]
    """Output features divided, and put together at once where it was made so."""

    get_extra_state, set_extra_state = nn.Module.get_extra_state, nn.Module.set_extra_state
    ways: Ways
    gathers: bool

    def forward(self, x: Tensor) -> Tensor:
        if not self.gathers:
            return _flat(super().forward, x)
        return self.ways.gather(_flat(super().forward, self.ways.copy(x)))


class Rows(RowParallelLinear):  # type: ignore[misc]
    """Input features divided, outputs summed, then comes the bias."""

    get_extra_state, set_extra_state = nn.Module.get_extra_state, nn.Module.set_extra_state
    ways: Ways
    gathers: bool

    def forward(self, x: Tensor) -> Tensor:
        return _flat(super().forward, self.ways.padded(x) if self.ways.sequence else x)


@frozen(kw_only=True, eq=False)
class Ways:
    """What goes between ranks around a divided layer."""

    grid: Grid
    sequence: bool = False
    """Whether each rank has a stretch of the tokens, outside of the products."""

    def enter(self, x: Tensor) -> Tensor:
        """Tokens into divided products. Gradients, which are parts, are summed on their way back."""
        if self.sequence:
            out: Tensor = gather_from_sequence_parallel_region(x, group=self.grid.tensor)
            return out
        return self.copy(x)

    def copy(self, x: Tensor) -> Tensor:
        """What all ranks have into a divided product."""
        # megatron-core 0.16.1 gives a tensor back unsummed if it is not contiguous, so see to that, going back too.
        out: Tensor = _Contiguous.apply(  # type: ignore[no-untyped-call]
            copy_to_tensor_model_parallel_region(x, self.grid.tensor)
        )
        return out

    def gather(self, part: Tensor) -> Tensor:
        """Output features put together. What each rank does with them to its own tokens is a part of their gradient."""
        back = all_gather_last_dim_from_tensor_parallel_region if self.sequence else None
        out: Tensor = (back or gather_from_tensor_model_parallel_region)(part, self.grid.tensor)
        return out

    def leave(self, part: Tensor) -> Tensor:
        """Sums of parts: of all tokens, or of this rank's."""
        if self.sequence:
            out: Tensor = reduce_scatter_to_sequence_parallel_region(self.padded(part), self.grid.tensor)
        else:
            out = reduce_from_tensor_model_parallel_region(part.contiguous(), self.grid.tensor)
        return out

    def padded(self, x: Tensor) -> Tensor:
        """Tokens that the ranks can share."""
        missing = -len(x) % self.grid.split
        return F.pad(x, (0, 0, 0, missing)) if missing else x


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

    def __init__(self, ways: Ways) -> None:
        super().__init__()
        self.ways = ways

    def forward(self, x: Tensor) -> Tensor:
        return self.ways.enter(x)


class Parting(nn.Module):
    """Each rank goes on with its stretch of the tokens."""

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self.ways = Ways(grid=grid)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = scatter_to_sequence_parallel_region(self.ways.padded(x), self.ways.grid.tensor)
        return out


class Meeting(nn.Module):
    """Every rank has all tokens again, and does the same with them."""

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self.grid = grid

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = gather_from_sequence_parallel_region(x, False, self.grid.tensor)
        return out


def _around(kind: type[nn.Module], split: Split) -> type[nn.Module]:
    """A linear layer's class with the mappings around its forward."""
    around = {"rows": _RowsAround, "gathered": _GatheredAround}.get(split)
    return kind if around is None else type(f"{kind.__name__}By{split.title()}", (around, kind), {})


class _GatheredAround:
    """Before a class derived from ``nn.Linear``."""

    ways: Ways

    def forward(self, x: Tensor) -> Tensor:
        return self.ways.gather(super().forward(self.ways.copy(x)))  # type: ignore[misc]


class _RowsAround:
    """The same. The bias is kept from its forward: it comes after the sum, once."""

    ways: Ways
    _parameters: dict[str, Tensor | None]

    def forward(self, x: Tensor) -> Tensor:
        bias, self._parameters["bias"] = self._parameters["bias"], None
        try:
            part = super().forward(x)  # type: ignore[misc]
        finally:
            self._parameters["bias"] = bias
        out = self.ways.leave(part)
        return out if bias is None else out + bias
