"""Sources: endless, deterministic, resumable batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar, runtime_checkable

from qi_core.place import Place

if TYPE_CHECKING:
    from torch import Tensor

    from qi_core.models import Models

B_co = TypeVar("B_co", covariant=True)


class Source(Protocol[B_co]):
    """A live source. What the n-th sample is depends on the settings, the seed and n alone."""

    def draw(self, count: int) -> B_co:
        """The next ``count`` samples, in order. Raises QiError when nothing usable is left."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """The position, as JSON values: a source that loads it goes on with exactly the samples that follow."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a position."""
        ...

    def report(self) -> dict[str, int]:
        """What was skipped so far, by reason. Nothing is dropped silently."""
        ...


@runtime_checkable
class OnPolicy(Protocol):
    """A live source that draws with the model that is being trained: rollouts.

    Its batches are drawn when they are needed and never ahead, with the weights of that moment. What the n-th batch is
    depends on the settings, the seed and those weights; draws may give fewer than ``count``, none included.
    """

    def follow(self, models: Models) -> None:
        """Called once, before the first draw."""
        ...

    def tensors(self) -> Mapping[str, Tensor]:
        """What a checkpoint must hold beside ``state_dict()``: pictures that later updates will learn from."""
        ...

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Take them back, after ``load_state_dict``."""
        ...

    def figures(self) -> Mapping[str, float]:
        """Of what the last batch is a part of, to log beside the objective's parts: rewards, groups dropped, ..."""
        ...


class SourceComponent(Protocol[B_co]):
    """The settings of a source."""

    gives: ClassVar[type]
    """The type of batch (Samples, ...)."""

    def build(self, place: Place, multiple: int) -> Source[B_co]:
        """``multiple``: heights and widths must be multiples of so many pixels (the autoencoder's scale)."""
        ...
