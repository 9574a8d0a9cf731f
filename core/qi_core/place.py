"""Where heavy state is built."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar, runtime_checkable

from attrs import frozen, has
from attrs.exceptions import FrozenInstanceError

if TYPE_CHECKING:
    import torch

T_co = TypeVar("T_co", covariant=True)


@frozen(kw_only=True, eq=False)
class Place:
    """What a component is told when it builds its heavy state."""

    device: torch.device
    dtype: torch.dtype
    """In which frozen parts keep their weights and compute (trained weights are always float32)."""
    seed: int
    folder: Path
    """The run's folder; it exists."""
    reserve: torch.dtype | None = None
    """If given, weights of the denoiser will be loaded right after: memory is reserved in this dtype, nothing is drawn
    or read."""
    multiple: int = 1
    """Heights and widths must be multiples of so many pixels: the autoencoder's scale, once it is built."""
    even: bool = False
    """Every sample comes once in an epoch, whatever it weighs: for passes that look at all of them."""


class Component(Protocol[T_co]):
    """A frozen attrs class: its fields are the recipe's keys, ``build`` makes the working thing when the run starts.

    Reading a recipe makes the component and must stay cheap: import torch inside methods, open files in ``build``.
    """

    def build(self, place: Place) -> T_co:
        """Make the working thing. Raises QiError where the settings don't fit the world (a file that isn't there)."""
        ...


@runtime_checkable
class Closing(Protocol):
    """A live source, evaluation or store that holds threads, processes or connections."""

    def close(self) -> None:
        """Let go of them. Called when the run's training ends, however it ends."""
        ...


def is_frozen(component: type[object]) -> bool:
    """Whether it is a frozen attrs class, as a component must be."""
    if not has(component):
        return False
    try:
        object.__new__(component).__setattr__("frozen", True)
    except FrozenInstanceError:
        return True
    except (AttributeError, TypeError):  # slots without the field, or a class that cannot be made this way
        return False
    return False
