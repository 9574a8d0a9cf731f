"""Engines: who carries out orders, and where."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from attrs import frozen

if TYPE_CHECKING:
    from qi_core.portions import Order, Portion
    from qi_core.producing import Maker


@frozen(kw_only=True, eq=False)
class Spec:
    """What decides samples: everything that producers must have alike with the trainer."""

    digest: str
    recipe: str
    """TOML."""
    maker: Maker
    """In this process."""


@frozen(kw_only=True, eq=False)
class Workshop:
    """What an engine is told when it is built."""

    folder: Path
    """The run's."""
    rank: int
    """Of this trainer's process; each has an engine of its own, and rank 0 starts what there is once."""
    ranks: int
    workers: int
    """Threads that make samples, in each process that does."""
    command: tuple[str, ...]
    """Starts qi in another process: the words before ``produce``."""
    pinned: bool
    """Whether batches go on to a GPU: their memory should be pinned."""
    tell: Callable[[str], None]
    """Takes a line for the log: a producer that died, one that is slow."""


class Engine(Protocol):
    """A live engine."""

    def begin(self, spec: Spec) -> None:
        """Orders from now on are of this spec. Called before the first one, and at every change."""
        ...

    def carry_out(self, order: Order) -> Future[Portion]:
        """Returns at once. The future raises QiError where the order can't be carried out, by anyone."""
        ...

    def figures(self) -> Mapping[str, float]:
        """To log: what was fetched since the last call, how often again; may be empty."""
        ...

    def close(self) -> None:
        """End threads, connections and processes."""
        ...


class EngineComponent(Protocol):
    """The settings of an engine."""

    def build(self, shop: Workshop) -> Engine: ...


class Inline:
    """Threads of the trainer make samples; the loop encodes them."""

    def __init__(self, workers: int) -> None:
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="qi-make")
        self._spec: Spec | None = None

    def begin(self, spec: Spec) -> None:
        self._spec = spec

    def carry_out(self, order: Order) -> Future[Portion]:
        assert self._spec is not None
        return self._pool.submit(self._spec.maker.make, order)

    def figures(self) -> Mapping[str, float]:
        return {}

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
