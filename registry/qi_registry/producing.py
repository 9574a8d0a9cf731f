"""What a producer does with the recipes that it is given; as a program, one of its worker processes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import define, evolve

from qi_core.place import Closing
from qi_registry import reader, runs, specs
from qi_registry.recipe import Recipe, to_table, to_toml

if TYPE_CHECKING:
    from qi_core.encoder import Encoders
    from qi_core.parallel import Strategy
    from qi_core.plane.child import Try
    from qi_core.portions import Order, Portion
    from qi_core.producing import Maker


def definition(place: str, sets: tuple[str, ...]) -> str:
    """The recipe that orders will be carried out by, as text: of a file, or of a run as it is now."""
    recipe = runs.read_run_now(Path(place), sets) if runs.is_run(place) else reader.read(place, sets)
    return to_toml(recipe)


def accept(text: str) -> str:
    """The name of a definition. Raises QiError where it can't be read here: a plugin that isn't installed."""
    return specs.digest(_read(text))


def _read(text: str) -> Recipe:
    return reader.loads(text, where="the run's recipe")


@define(eq=False)
class Loaded:
    """Encoders, which the specs that agree on them share: they may have billions of weights."""

    told: str
    """What decides them."""
    encoders: Encoders
    strategy: Strategy
    users: int = 0


class Bench:
    """What a worker has at hand. Each new spec (a threshold of a filter that moved) finds the encoders loaded."""

    def __init__(self, folder: Path, device: str) -> None:
        """``device``: empty: as the recipe says."""
        self._folder, self._device = folder, device
        self._loaded: list[Loaded] = []
        self._works: list[Work] = []

    def __call__(self, text: bytes) -> Work:
        """Encoders are loaded, unless they are, and the data is looked for. Raises QiError where something isn't
        there."""
        from qi_registry.assemble import place_of

        recipe = _read(text.decode())
        loaded = self._encoders(recipe)
        place = place_of(recipe, self._folder, loaded.strategy)
        maker = specs.producer(recipe, place, loaded.encoders, loaded.strategy).maker
        loaded.users += 1
        work = Work(maker, lambda: self._let_go(work, loaded))
        self._works.append(work)
        return work

    def trial(self, text: bytes) -> Try:
        """What tries samples: the same source and filters, and no encoders, but for the autoencoder's scale. Raises
        QiError where something isn't there."""
        from qi_core.producing import Maker
        from qi_registry.assemble import place_of

        recipe = _read(text.decode())
        place = place_of(recipe, self._folder, self._strategy(recipe))
        place = evolve(place, multiple=specs.scale(recipe, place))
        live: Any = specs.source(recipe, place)  # it plans: orders came of it
        return Maker(source=live, seed=recipe.train.seed).one_by_one

    def close(self) -> None:
        """Put away what is at hand."""
        with ExitStack() as stack:  # one that fails to close keeps none of the others open
            stack.callback(self._clear)
            for work in self._works:
                stack.callback(work.close)

    def _encoders(self, recipe: Recipe) -> Loaded:
        from qi_registry.assemble import encoders_of, place_of

        table = to_table(recipe)
        parts = [table.get(section) for section in ("autoencoder", "conditioner", "parallel")]
        told = json.dumps([*parts, table["data"].get("cache"), recipe.train.seed], sort_keys=True)
        for each in self._loaded:
            if each.told == told:
                return each
        self._clear()
        strategy = self._strategy(recipe)
        encoders = encoders_of(recipe, place_of(recipe, self._folder, strategy))
        self._loaded.append(Loaded(told, encoders, strategy))
        return self._loaded[-1]

    def _strategy(self, recipe: Recipe) -> Strategy:
        from qi_registry.assemble import alone

        parallel: Any = alone(recipe.parallel)
        strategy: Strategy = (evolve(parallel, device=self._device) if self._device else parallel).build()
        return strategy

    def _let_go(self, work: Work, loaded: Loaded) -> None:
        self._works.remove(work)
        loaded.users -= 1

    def _clear(self) -> None:
        """Encoders that no spec has any more."""
        for each in [each for each in self._loaded if not each.users]:
            self._loaded.remove(each)
            each.encoders.close()


class Work:
    """Carries out the orders of one spec."""

    def __init__(self, maker: Maker, let_go: Callable[[], None]) -> None:
        self._maker, self._let_go = maker, let_go

    def __call__(self, order: Order) -> Portion:
        return self._maker.encoded(order, self._maker.make(order))

    def close(self) -> None:
        """Once: of this spec nothing more is wanted."""
        self._let_go()
        if self._maker.pool is not None:
            self._maker.pool.shutdown(wait=False, cancel_futures=True)
        if isinstance(self._maker.source, Closing):
            self._maker.source.close()


def main() -> None:
    """A worker: folder and device are its arguments."""
    from qi_core import skipped
    from qi_core.plane import child

    skipped.quiet()  # the trainer finds the same, and lists it
    bench = Bench(Path(sys.argv[1]), sys.argv[2])
    child.work(bench, bench.close, bench.trial)


if __name__ == "__main__":
    main()
