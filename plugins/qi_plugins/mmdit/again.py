"""Selective activation checkpointing: what is cheap is computed again, products and attention are kept.

Norms, modulation, gates and GELU cost passes over memory and hold most of a block's activations; matrix products and
attention cost nearly all of its time. So the cheap *pieces* of a block are marked with ``again``. Inside
``selective()`` a piece keeps nothing of its own, and whatever a product would keep of its result is a promise to
compute it again: once, in the backward pass, for the value and for the piece's own derivative. A piece's inputs are
kept, unless another piece gave them: then they are promises too.

torch's ``create_selective_checkpoint_contexts`` does such a thing from outside, operation by operation. It runs the
whole block a second time, products left out: with tensor parallelism the second run would communicate again, and every
operation passes through Python in both runs. Here nothing but the pieces runs twice, so linears may be anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeAlias, TypeVar, cast

import torch
from attrs import frozen
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.multiprocessing.reductions import StorageWeakRef

T = TypeVar("T", Tensor, tuple[Tensor, ...])


def again(work: Callable[..., T], *tensors: Tensor, modules: tuple[nn.Module, ...] = (), product: bool = False) -> T:
    """``work(*tensors)``; inside ``selective()`` its results are not kept for the backward pass.

    ``work``: draws nothing, changes nothing, gives new tensors; the same numbers each time. ``modules``: those whose
    parameters it uses. ``product``: matrix products take the result, so under autocast it may come in their dtype (each
    would otherwise make and keep a copy of its own). A compiled region decides by itself what to keep, so inside one
    this is a plain call.
    """
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return work(*tensors)
    keeper = _KEEPER.get()
    if keeper is None:
        return work(*tensors)
    return cast("T", keeper.again(_for_products(work) if product else work, tensors, modules))


def _for_products(work: Callable[..., Any]) -> Callable[..., Tensor]:
    def cast_work(*tensors: Tensor) -> Tensor:
        result: Tensor = work(*tensors)
        kind = result.device.type
        return result.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else result

    return cast_work


@contextmanager
def selective() -> Iterator[None]:
    """Around the forward pass of a block."""
    keeper = _Keeper()
    token = _KEEPER.set(keeper)
    try:
        with torch.autograd.graph.saved_tensors_hooks(keeper.pack, _value):
            yield
    finally:
        _KEEPER.reset(token)
        keeper.forget()  # the graph may hold the hook


class _Keeper:
    """Which storages hold results of pieces, for one block's forward pass."""

    def __init__(self) -> None:
        # The weak reference keeps a storage's address (not its memory) from being given to another one.
        self._made: dict[int, tuple[StorageWeakRef, _Results, int]] = {}

    def pack(self, tensor: Tensor) -> Tensor | _Promise:
        """What is kept of a tensor that the backward pass needs."""
        found = self._made.get(_storage(tensor))
        if found is None or tensor.dtype != found[1].dtypes[found[2]]:
            # A node that kept its own result by the name that leads back to the node would never be let go.
            return tensor if isinstance(tensor, nn.Parameter) else tensor.detach()
        _, results, number = found
        return _Promise(results, number, tensor.size(), tensor.stride(), int(tensor.storage_offset()))

    def again(
        self, work: Callable[..., Any], tensors: tuple[Tensor, ...], modules: tuple[nn.Module, ...]
    ) -> Tensor | tuple[Tensor, ...]:
        """Do it, and remember what it gave."""
        inputs = tuple(self.pack(tensor.detach()) for tensor in tensors)
        piece = _Piece(work, modules, tensors, inputs)
        made = _Again.apply(piece, *tensors, *piece.parameters())  # type: ignore[no-untyped-call]
        each = made if isinstance(made, tuple) else (made,)
        results = _Results(piece, inputs, tuple(result.dtype for result in each))
        for number, result in enumerate(each):
            storage = result.untyped_storage()
            alive = StorageWeakRef(storage)  # type: ignore[no-untyped-call]
            self._made[storage._cdata] = alive, results, number
        return cast("Tensor | tuple[Tensor, ...]", made)

    def forget(self) -> None:
        """The forward pass is over."""
        self._made.clear()


def _storage(tensor: Tensor) -> int:
    """Its identity; 0 for tensors without one (DTensor and the like)."""
    try:
        return int(tensor.untyped_storage()._cdata)
    except NotImplementedError:
        return 0


_KEEPER: ContextVar[_Keeper | None] = ContextVar("keeper", default=None)


@frozen(eq=False)
class _Results:
    """What a piece gave, by what it takes to compute that again."""

    piece: _Piece
    inputs: tuple[Tensor | _Promise, ...]
    dtypes: tuple[torch.dtype, ...]


@frozen(eq=False)
class _Promise:
    """One of them, or a view of it."""

    results: _Results
    number: int
    size: torch.Size
    stride: tuple[int, ...]
    offset: int

    def value(self) -> Tensor:
        found = self.results.piece.done(lambda: self.results.inputs)[1][self.number]
        return found.detach().as_strided(self.size, self.stride, self.offset)


def _value(kept: Tensor | _Promise) -> Tensor:
    return kept.value() if isinstance(kept, _Promise) else kept


Inputs: TypeAlias = Callable[[], Sequence[Tensor | _Promise]]


class _Piece:
    """Cheap work that was done once and can be done again.

    It doesn't hold its inputs: nodes of the graph live until the whole backward pass is over; only what autograd saved
    for them is let go as soon as it was used.
    """

    def __init__(
        self,
        work: Callable[..., Any],
        modules: tuple[nn.Module, ...],
        tensors: tuple[Tensor, ...],
        kept: tuple[Tensor | _Promise, ...],
    ) -> None:
        self.work = work
        self._modules = modules
        self._needs = [tensor.requires_grad for tensor in tensors]
        self._versions = [t._version if isinstance(k, Tensor) else None for t, k in zip(tensors, kept, strict=True)]
        self._autocast = _autocast(tensors[0].device.type)
        self._done: tuple[list[Tensor], tuple[Tensor, ...]] | None = None

    def parameters(self) -> list[nn.Parameter]:
        """Asked anew each time: a strategy may have put others in their places."""
        return [parameter for module in self._modules for parameter in module.parameters()]

    def done(self, inputs: Inputs) -> tuple[list[Tensor], tuple[Tensor, ...]]:
        """Inputs and results with a graph between them; computed if they aren't there."""
        if self._done is None:
            values = [_value(kept) for kept in inputs()]
            for value, version in zip(values, self._versions, strict=True):
                if version not in (None, value._version):
                    raise RuntimeError("an input of something that is computed again was changed in place")
            own = [value.detach().requires_grad_(need) for value, need in zip(values, self._needs, strict=True)]
            with torch.enable_grad(), self._autocast():
                made = self.work(*own)
            self._done = own, made if isinstance(made, tuple) else (made,)
        return self._done

    def gradients(self, inputs: Inputs, grads: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Of the inputs and the parameters, None for those that need none. Nothing is held afterwards."""
        own, results = self.done(inputs)
        self._done = None
        every = [*own, *self.parameters()]
        asked = [tensor for tensor in every if tensor.requires_grad]
        pairs = [(result, grad) for result, grad in zip(results, grads, strict=True) if grad is not None]
        found = iter(torch.autograd.grad([r for r, _ in pairs], asked, [g for _, g in pairs], allow_unused=True))
        return [next(found) if tensor.requires_grad else None for tensor in every]


def _autocast(kind: str) -> Callable[[], torch.autocast]:
    """That which is on now."""
    enabled, dtype = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
    return lambda: torch.autocast(kind, dtype=dtype, enabled=enabled)


class _Again(torch.autograd.Function):
    """Forward: the work, nothing kept but its inputs. Backward: the work once more, and back through it."""

    @staticmethod
    def forward(ctx: Any, piece: _Piece, *tensors: Tensor) -> Any:
        inputs = tensors[: len(tensors) - len(piece.parameters())]
        ctx.piece = piece
        ctx.save_for_backward(*inputs)
        return piece.work(*inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        return (None, *ctx.piece.gradients(lambda: ctx.saved_tensors, grads))
