"""Sources: endless, deterministic, resumable batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias, TypeVar, runtime_checkable

from qi_core.place import Place

if TYPE_CHECKING:
    from torch import Tensor

    from qi_core.models import Models

B_co = TypeVar("B_co", covariant=True)

Ticket: TypeAlias = tuple[int, ...]
"""Stands for a sample that is not made yet: whole numbers that mean something to its source alone."""


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
class Planned(Protocol):
    """A live source whose samples can be made anywhere: which ones come next is decided in one place and costs little,
    and each is made, in any thread, process or machine that has built the same source, from its ticket alone.

    ``qi_core.drawing.drawn`` is the ``draw`` of such a source.
    """

    @property
    def gives(self) -> type[Any]:
        """The type of batch; made of ``items`` and ``slots``, as ``Samples`` is."""
        ...

    def plan(self, count: int) -> list[Ticket]:
        """The next ``count`` samples, in order; the position moves on. Opens nothing.

        Only a source that cannot know what there is before it has looked (shards behind a network) may, now and then
        and ahead where it can, and says so: ``looks`` is True. What it found the first time then stands in the run's
        folder, so that all ranks and every resume plan alike.
        """
        ...

    def cost(self, ticket: Ticket) -> int:
        """About how many pixels it will have, references included: replicas get equally many."""
        ...

    def called(self, ticket: Ticket) -> str:
        """Its key, before it is made."""
        ...

    def make(self, ticket: Ticket) -> Any:
        """The sample: the same for the same ticket, always. Raises Unusable if it can't be."""
        ...

    def other(self, ticket: Ticket, attempt: int) -> Ticket:
        """Who stands in for a sample that can't be used, at the first, second ... attempt. Raises QiError when nothing
        usable is left."""
        ...


@runtime_checkable
class Named(Protocol):
    """A live source that plans, and knows of what its samples are made before it makes them."""

    def named(self, ticket: Ticket) -> bytes | None:
        """A digest of everything that decides the sample: its files (path, size, time), the settings, and in which
        epoch, if that matters. None where it isn't known, or making the sample costs little."""
        ...


@runtime_checkable
class OfFiles(Protocol):
    """A live source whose samples depend on files that could be other ones elsewhere, or at a resume."""

    def made_of(self) -> Mapping[str, str]:
        """What it was built from: what messages call it (``text = 'lines.txt'``), and a digest. Another digest may mean
        other samples of the same tickets; times of the last change, and where a file lies, have no part in it."""
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
