"""What decides samples: the part of a recipe that trainer and producers must have alike, and the maker built of it."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from attrs import evolve, fields, has

from qi_core.errors import QiError
from qi_registry.kinds import KINDS
from qi_registry.recipe import Recipe, to_table, to_toml
from qi_registry.registry import installed

if TYPE_CHECKING:
    from qi_core.cache.memory import Memory
    from qi_core.encoder import Conditioner, Encoders
    from qi_core.engine import Spec
    from qi_core.filter import Filter
    from qi_core.parallel import Strategy
    from qi_core.place import Place
    from qi_core.planning import Size
    from qi_core.source import Source, SourceComponent

DECIDES = ("source", "autoencoder", "conditioner", "objective")
"""Sections of a recipe that decide what a sample is, and what it is encoded to."""
DECIDES_DATA = ("mixture", "filters", "cache")
"""Keys of ``[data]`` that do."""


def digest(recipe: Recipe) -> str:
    """Names what decides samples: two recipes with the same one make the same sample of the same ticket."""
    table = to_table(recipe)
    told = {
        "qi": version("qi"),
        "plugins": _versions([getattr(recipe, key) for key in DECIDES] + list(recipe.data.filters)),
        "seed": recipe.train.seed,
        "data": {key: table["data"].get(key) for key in DECIDES_DATA},
        **{key: table.get(key) for key in DECIDES},
        "precision": table["parallel"].get("precision"),
        "files": [_contents(json.dumps(each, sort_keys=True)) for each in _naming_files(table)],
    }
    return hashlib.blake2b(json.dumps(told, sort_keys=True).encode(), digest_size=12).hexdigest()


def _versions(components: Iterable[object]) -> list[str]:
    """Distributions that these components, and those within them, come from."""
    offered = {plugin.module.partition(".")[0].partition(":")[0]: plugin for plugin in installed().plugins.found}
    owners = {offered[name] for name in _packages(components) if name in offered}
    return sorted({f"{plugin.distribution} {plugin.version}" for plugin in owners})


def _packages(value: object) -> set[str]:
    """That the classes of some settings are defined in."""
    kind: Any = type(value)
    if has(kind):
        inner = [getattr(value, each.name) for each in fields(kind)]
        return {kind.__module__.partition(".")[0]}.union(*map(_packages, inner))
    if isinstance(value, Mapping):
        return set[str]().union(*map(_packages, value.values()))
    if isinstance(value, Iterable) and not isinstance(value, (str, bytes)):
        return set[str]().union(*map(_packages, value))
    return set()


def _naming_files(table: Mapping[str, Any]) -> list[Any]:
    """Components whose settings may name files that decide samples: weights, lists. (The source's own files are told
    by each order: see ``qi_core.material``.)"""
    return [table["autoencoder"], table["conditioner"], *table["data"].get("filters", ())]


@lru_cache(maxsize=64)
def _contents(settings: str) -> str:
    """The settings of a component with the files that they name, by content: looked at once a process."""
    from qi_core.cache.identity import identity

    try:
        return identity(json.loads(settings)).decode()
    except OSError as error:
        return f"{settings}: {error}"


def source(recipe: Recipe, place: Place) -> Source[Any]:
    """The live source, with the weights and filters that ``[data]`` asks for. Raises QiError where they don't fit."""
    from qi_core.filtering import Filtered
    from qi_core.keeping import Keeper
    from qi_core.source import Planned

    live = weighed(recipe.source, recipe.data.mixture).build(place, place.multiple)
    if not recipe.data.filters:
        return live
    if not isinstance(live, Planned):
        raise QiError(
            f"data.filters: {type(recipe.source).__name__} cannot say what comes next before it is made "
            "(qi_core.Planned), so nobody could stand in for what a filter refuses; leave the filters out"
        )
    filters = filters_of(recipe, place)
    return Filtered(live, filters, Keeper(place.folder, filters))


def filters_of(recipe: Recipe, place: Place) -> dict[str, Filter]:
    """The live filters of a recipe by label. Raises QiError where what one needs is not there."""
    from qi_core.filtering import labelled

    components = recipe.data.filters
    labels = labelled(components, [installed().name_of(each, KINDS["filter"]) for each in components])
    return {label: component.build(place) for label, component in zip(labels, components, strict=True)}


def is_inline(recipe: Recipe) -> bool:
    """Whether the trainer makes its samples itself."""
    engine = recipe.data.engine
    return engine is None or installed().name_of(engine, KINDS["engine"]) == "inline"


def encoded_elsewhere(recipe: Recipe) -> bool:
    """Whether samples reach the trainer encoded."""
    from qi_core.producing import Encodes

    return not is_inline(recipe) and isinstance(recipe.objective, Encodes)


def resting(recipe: Recipe, place: Place) -> Conditioner:
    """The conditioner, loaded when it is asked; at once where its settings don't tell its width, or its files are not
    there, which should show now."""
    from qi_core.resting import Resting

    size = _size(recipe.conditioner)
    if size is None:
        return recipe.conditioner.build(place)
    return Resting(partial(recipe.conditioner.build, place), size.width, place.device)


def scale(recipe: Recipe, place: Place) -> int:
    """Of the autoencoder, without loading it where its settings tell."""
    size = _size(recipe.autoencoder)
    return recipe.autoencoder.build(place).scale if size is None else size.scale


def _size(encoder: object) -> Size | None:
    """Of an encoder whose files are there and whose settings tell."""
    from qi_core.planning import Sized

    size = encoder.plan_size() if isinstance(encoder, Sized) else None
    return None if size is None or size.note else size


def cached(recipe: Recipe, place: Place, bare: Encoders) -> Encoders:
    """The encoders with the cache that ``[data.cache]`` asks for in front of them; else as they are."""
    if recipe.data.cache is None:
        return bare
    from qi_core.cache.encoders import cached as kept
    from qi_core.cache.shelf import Shelf

    shelf = Shelf(recipe.data.cache, lambda line: print(line, file=sys.stderr, flush=True))
    table = to_table(recipe)
    identities = [_identity(table[section], place) for section in ("autoencoder", "conditioner")]
    return evolve(kept(bare, shelf, *identities), cache=shelf)


def _memory(recipe: Recipe, encoders: Encoders, strategy: Strategy) -> Memory | None:
    """Of samples whose latents the cache keeps."""
    from qi_core.cache.encoders import CachedAutoencoder
    from qi_core.cache.memory import Memory
    from qi_core.cache.shelf import Shelf

    if not (isinstance(encoders.autoencoder, CachedAutoencoder) and isinstance(encoders.cache, Shelf)):
        return None
    # Filters are built anew when the data changes, and read their files again; the autoencoder is what it was.
    filters = [_identity(each, strategy).decode() for each in to_table(recipe)["data"].get("filters") or ()]
    told = [version("qi"), filters, encoders.autoencoder.identity.decode()]
    return Memory(encoders.cache, encoders.autoencoder, json.dumps(told, sort_keys=True).encode())


def _identity(settings: Mapping[str, Any], place: Place | Strategy) -> bytes:
    """What decides an encoder's values: its settings, the files that they name, and the precision it computes in."""
    from qi_core.cache.identity import identity

    return identity(settings, str(place.dtype), place.device.type)


def weighed(component: SourceComponent[Any], weights: Mapping[str, float]) -> SourceComponent[Any]:
    """The source with other weights of its named parts. Raises QiError if it has none of that name."""
    if not weights:
        return component
    change = getattr(component, "weighed", None)
    if change is None:
        raise QiError(
            f"data.mixture: {type(component).__name__} has no parts to weigh; set it where the source is a mixture"
        )
    made: SourceComponent[Any] = change(weights)
    return made


def spec(recipe: Recipe, live: Source[Any], encoders: Encoders, strategy: Strategy) -> Spec | None:
    """What producers are told, and the maker of this process; None for a source that does not plan."""
    from qi_core.engine import Spec
    from qi_core.producing import Maker
    from qi_core.source import Planned

    if not isinstance(live, Planned):
        return None
    maker = Maker(
        source=live,
        seed=recipe.train.seed,
        objective=recipe.objective,
        encoders=encoders,
        strategy=strategy,
        memory=_memory(recipe, encoders, strategy),
    )
    return Spec(digest=digest(recipe), recipe=to_toml(recipe), maker=maker)


def producer(recipe: Recipe, place: Place, encoders: Encoders, strategy: Strategy) -> Spec:
    """The same in a process that makes samples for others: with threads of its own. Raises QiError for a source that
    does not plan."""
    place = evolve(place, multiple=encoders.autoencoder.scale)
    made = spec(recipe, source(recipe, place), encoders, strategy)
    if made is None:
        raise QiError(
            f"source: {type(recipe.source).__name__} cannot say what comes next before it is made (qi_core.Planned), "
            "as producers need; train on it with data.engine = 'inline'"
        )
    pool = ThreadPoolExecutor(recipe.data.workers, thread_name_prefix="qi-make")
    return evolve(made, maker=evolve(made.maker, pool=pool))
