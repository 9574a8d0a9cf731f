"""Tensors of the unsharded model, as one rank holds them.

Whatever a strategy does with a model, its tensors go by the unsharded model's names. What a rank holds of one is a
*piece*; where a piece belongs is told in *parts*: boxes of the whole tensor. So what one layout saved any other can
read, and nothing is sent between ranks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from attrs import frozen

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


@frozen(kw_only=True, eq=False)
class Part:
    """A box of a whole tensor."""

    tensor: Tensor
    """Its values, a view of this rank's: what is written here, the rank holds."""
    shape: tuple[int, ...]
    """Of the whole tensor."""
    offsets: tuple[int, ...]
    """Where in the whole the box begins."""
    copy: int = 0
    copies: int = 1
    """This is number ``copy`` of so many ranks that hold the very same box: one of them need write it."""

    @property
    def is_whole(self) -> bool:
        """Whether this is the whole tensor, and nobody else holds it."""
        return self.copies == 1 and tuple(self.tensor.shape) == self.shape

    @property
    def slices(self) -> tuple[slice, ...]:
        """Of the whole tensor."""
        return tuple(slice(at, at + size) for at, size in zip(self.offsets, self.tensor.shape, strict=True))


class Held(Protocol):
    """All tensors of a model, as this rank holds them. A strategy gives it for the model that it placed."""

    @property
    def trained(self) -> Mapping[str, nn.Parameter]:
        """Name -> the float32 values that this rank updates. Once ``Strategy.clip`` is through, ``.grad`` of each is
        its gradient over all ranks (None: it has none)."""
        ...

    @property
    def frozen(self) -> Mapping[str, Tensor]:
        """Name -> this rank's piece of every other tensor of the model's state."""
        ...

    def shape(self, name: str) -> tuple[int, ...]:
        """Of the whole tensor."""
        ...

    def parts(self, name: str, piece: Tensor) -> Sequence[Part]:
        """Where a tensor that is laid out like the piece of that name belongs. Empty where this rank holds nothing."""
        ...

    def exchange(self, copies: Mapping[str, Tensor]) -> None:
        """Swap trained values with ``copies``, laid out like ``trained``: the model computes with what they held."""
        ...

    def spread(self) -> None:
        """Values of ``trained`` were written: make the model compute with them, on all ranks."""
        ...

    def drive(self, optimizer: torch.optim.Optimizer) -> Callable[[], None]:
        """Take charge of an optimizer that was made for the model's parameters. What comes back makes one update with
        the gradients as they are; from now on the optimizer's state is kept by the parameters of ``trained``."""
        ...

    def clear(self) -> None:
        """Forget all gradients."""
        ...


class Whole:
    """``Held`` where every rank holds all of every tensor."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self.trained: Mapping[str, nn.Parameter] = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}

    @property
    def frozen(self) -> Mapping[str, Tensor]:
        """See ``Held``."""
        return {name: tensor for name, tensor in self._model.state_dict().items() if name not in self.trained}

    def shape(self, name: str) -> tuple[int, ...]:
        """See ``Held``."""
        return self._shapes[name]

    def parts(self, name: str, piece: Tensor) -> Sequence[Part]:
        """See ``Held``."""
        return (Part(tensor=piece.detach(), shape=tuple(piece.shape), offsets=(0,) * piece.ndim),)

    def exchange(self, copies: Mapping[str, Tensor]) -> None:
        """See ``Held``. Nothing is copied for it."""
        import torch

        for name, copy in copies.items():
            live = self.trained[name]
            live.data, copy.data = copy.data, live.data
        # Autocast keeps its bfloat16 copies by parameter and would go on with those of the weights before: a policy
        # would be computed with its reference's weights for the rest of the step.
        torch.clear_autocast_cache()

    def spread(self) -> None:
        """See ``Held``. The model computes with these very tensors."""

    def drive(self, optimizer: torch.optim.Optimizer) -> Callable[[], None]:
        """See ``Held``."""
        return optimizer.step

    def clear(self) -> None:
        """See ``Held``."""
        self._model.zero_grad(set_to_none=True)


def fill(held: Held, name: str, piece: Tensor, tensors: Mapping[str, Tensor], stored: str = "") -> None:
    """Read what belongs to a piece out of whole tensors, and no more than that. ``stored``: its name there, if it is
    another."""
    for part in held.parts(name, piece):
        part.tensor.copy_(region(tensors, stored or name, part.slices))


def fill_all(held: Held, tensors: Mapping[str, Tensor], where: str, advice: str, names: Sequence[str]) -> None:
    """Put whole tensors into a placed model, after all names and shapes are found equal. Raises QiError if not."""
    import torch

    from qi_core.tensorfiles import forms
    from qi_core.weights import refuse_mismatch

    refuse_mismatch({name: held.shape(name) for name in names}, forms(tensors), where, advice)
    own = {**held.frozen, **held.trained}
    with torch.no_grad():
        for name in names:
            fill(held, name, own[name], tensors)
    held.spread()


def region(tensors: Mapping[str, Tensor], name: str, slices: tuple[slice, ...]) -> Tensor:
    """A box of a whole tensor; of one on the disk no more is read than the box."""
    from collections import ChainMap

    from qi_core.tensorfiles import Regions

    if isinstance(tensors, ChainMap):
        return region(next(each for each in tensors.maps if name in each), name, slices)
    if isinstance(tensors, Regions):
        return tensors.region(name, slices)
    return tensors[name][slices]
