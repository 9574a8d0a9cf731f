"""Sources: endless, deterministic, resumable batches."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol, TypeVar

from qi_core.place import Place

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


class SourceComponent(Protocol[B_co]):
    """The settings of a source."""

    gives: ClassVar[type]
    """The type of batch (Samples, ...)."""

    def build(self, place: Place, multiple: int) -> Source[B_co]:
        """``multiple``: heights and widths must be multiples of so many pixels (the autoencoder's scale)."""
        ...
