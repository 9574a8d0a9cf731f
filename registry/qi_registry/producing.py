"""What a producer does with the recipes that it is given; as a program, one of its worker processes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import evolve

from qi_registry import reader, runs, specs
from qi_registry.recipe import Recipe, to_toml

if TYPE_CHECKING:
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


def build(text: bytes, folder: Path, device: str) -> Maker:
    """Encoders are loaded, and the data is looked for. Raises QiError where something isn't there."""
    from qi_registry.assemble import alone, encoders_of, place_of

    recipe = _read(text.decode())
    parallel: Any = alone(recipe.parallel)
    strategy = (evolve(parallel, device=device) if device else parallel).build()
    place = place_of(recipe, folder, strategy)
    return specs.producer(recipe, place, encoders_of(recipe, place), strategy).maker


def main() -> None:
    """A worker: folder and device are its arguments."""
    from qi_core import skipped
    from qi_core.place import Closing
    from qi_core.plane import child

    skipped.quiet()  # the trainer finds the same, and lists it
    folder, device = Path(sys.argv[1]), sys.argv[2]
    made: list[Maker] = []

    def make(text: bytes) -> child.Make:
        maker = build(text, folder, device)
        made.append(maker)
        return lambda order: maker.encoded(order, maker.make(order))

    def farewell() -> None:
        for maker in made:
            for part in (maker.encoders, maker.source):
                if isinstance(part, Closing):
                    part.close()

    child.work(make, farewell)


if __name__ == "__main__":
    main()
