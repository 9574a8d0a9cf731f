"""Many layouts of one recipe, the best first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import ceil
from typing import Any

import attrs

from qi_core.errors import QiError
from qi_core.planning import Laid
from qi_registry.mistakes import show
from qi_registry.planning.cards import Card
from qi_registry.planning.estimate import Estimate, Job, estimate
from qi_registry.planning.jobs import Scene, job, recomputed
from qi_registry.recipe import Recipe

CHECKPOINTING = ("none", "selective", "all")
KEPT = ("device", "precision", "compile", "engine", "fp8", "overlap")
"""Fields of the recipe's strategy that another one gets too, where it has them."""


@attrs.frozen(kw_only=True)
class Choice:
    """One layout, as a recipe would say it."""

    recipe: Recipe
    strategy: str
    found: Estimate

    @property
    def checkpointing(self) -> str:
        """Of the denoiser, as a recipe spells it."""
        return str(getattr(self.recipe.denoiser, "checkpointing", "-"))

    def sets(self, before: Recipe, name_before: str) -> str:
        """What to lay on top of ``before`` to get it."""
        old: Any = before.parallel
        new: Any = self.recipe.parallel
        told = [] if self.strategy == name_before else [f"parallel.name={self.strategy}"]
        for field in attrs.fields(type(new)):
            value = getattr(new, field.name)
            known = getattr(old, field.name, field.default)  # --set parallel.name keeps the section's other keys
            if value != known:
                told.append(f"parallel.{field.name}={_plain(value)}")
        if self.recipe.denoiser != before.denoiser:
            told.append(f"denoiser.checkpointing={self.checkpointing}")
        if self.found.accumulate != before.train.accumulate:
            told.append(f"train.accumulate={self.found.accumulate}")
        return " ".join(f"--set {one}" for one in told)


def _plain(value: object) -> str:
    return value if isinstance(value, str) else show(value)


def strategies() -> dict[str, type[Any]]:
    """The installed ones that can say how they lay a model out."""
    from qi_registry.kinds import KINDS
    from qi_registry.registry import installed

    kind, found = KINDS["parallel"], dict[str, type[Any]]()
    for name in installed().names(kind):
        try:
            component = installed().find(kind, name).component
        except QiError:
            continue  # told by `qi plugins`
        if hasattr(component, "layout"):
            found[name] = component
    return found


def planned(recipe: Recipe, scene: Scene, gpus: int, card: Card, per_node: int, mfu: float | None) -> Estimate:
    """The recipe as it stands. Raises QiError where its strategy cannot say, or degrees don't divide."""
    if not isinstance(recipe.parallel, Laid):
        raise QiError(
            f"parallel: {type(recipe.parallel).__name__} does not say how it lays a model out, so nothing can be "
            "planned with it; its plugin would have to offer layout() (qi_core.planning.Laid)"
        )
    work, _ = job(recipe, scene)
    return estimate(work, recipe.parallel.layout(gpus), card, per_node, recipe.train.accumulate, mfu)


def sweep(
    recipe: Recipe,
    scene: Scene,
    gpus: int,
    card: Card,
    per_node: int,
    known: Mapping[str, type[Any]],
    mfu: float | None = None,
    like: Job | None = None,
) -> list[Choice]:
    """Every strategy, degree, sharding and checkpointing, each in as few micro-batches as fit: those that fit first,
    the fastest of them first; then the others, by what they lack. Equally good ones: the plainest first."""
    found: list[Choice] = []
    for checkpointing in CHECKPOINTING:
        denoiser = recomputed(recipe.denoiser, checkpointing)
        if str(getattr(denoiser, "checkpointing", "none")) != checkpointing:
            continue
        work, _ = job(attrs.evolve(recipe, denoiser=denoiser), scene, like)
        like = work  # the network is the same
        for name, parallel in _parallels(recipe, gpus, per_node, work.costs.heads, known):
            try:
                layout = parallel.layout(gpus)
                best = _fewest(work, recipe.train.batch, layout, card, per_node, mfu)
            except QiError:
                continue  # degrees that don't divide, fewer samples than replicas
            train = attrs.evolve(recipe.train, accumulate=best.accumulate)
            made = attrs.evolve(recipe, denoiser=denoiser, parallel=parallel, train=train)
            found.append(Choice(recipe=made, strategy=name, found=best))
    if any(choice.found.fits and not choice.found.layout.offload for choice in found):
        found = [choice for choice in found if not choice.found.layout.offload]  # slow, where nothing else fits
    return sorted(found, key=_order)


def _order(choice: Choice) -> tuple[bool, float, int, int]:
    found = choice.found
    missing = 0 if found.fits else -found.room
    return not found.fits, missing or round(found.seconds, 4), found.layout.tensor, found.accumulate


def _fewest(work: Job, batch: int, layout: Any, card: Card, per_node: int, mfu: float | None) -> Estimate:
    """In the fewest micro-batches that fit; with one sample at once if nothing does."""
    own = ceil(batch / layout.replicas)
    counts = sorted({ceil(own / micro) for micro in range(1, min(own, 64) + 1)} | {1, own})
    low, high = 0, len(counts) - 1  # more micro-batches never need more memory, but for the gradients that then stay
    first = estimate(work, layout, card, per_node, counts[0], mfu)
    if first.fits:
        return first
    last = estimate(work, layout, card, per_node, counts[high], mfu)
    while last.fits and high - low > 1:
        middle = (low + high) // 2
        tried = estimate(work, layout, card, per_node, counts[middle], mfu)
        low, high, last = (low, middle, tried) if tried.fits else (middle, high, last)
    return last


def _parallels(
    recipe: Recipe, gpus: int, per_node: int, heads: int, known: Mapping[str, type[Any]]
) -> Iterator[tuple[str, Any]]:
    """Settings of every strategy: tensor-parallel degrees within a machine, sharding over a machine or all."""
    carried = {name: getattr(recipe.parallel, name) for name in KEPT if hasattr(recipe.parallel, name)}
    degrees = [n for n in range(1, min(gpus, per_node) + 1) if gpus % n == 0 and heads % n == 0 and per_node % n == 0]
    for name, component in sorted(known.items()):
        fields = {field.name for field in attrs.fields(component) if field.init}
        own = {key: value for key, value in carried.items() if key in fields}
        if type(recipe.parallel) is component:
            own = {key: getattr(recipe.parallel, key) for key in fields}
        for tensor in degrees if "tensor" in fields else [1]:
            for more in _divided(fields, gpus, tensor, per_node):
                asked = ({"tensor": tensor} if "tensor" in fields else {}) | more
                try:
                    yield name, component(**(own | asked))
                except (ValueError, TypeError):
                    continue  # settings of the recipe's strategy that this one does not take


def _divided(fields: set[str], gpus: int, tensor: int, per_node: int) -> Sequence[dict[str, Any]]:
    """Ways to divide what is held once more."""
    made: list[dict[str, Any]] = [{}]
    if "sequence" in fields and tensor > 1:
        made = [{"sequence": False}, {"sequence": True}]
    if "shard" in fields:
        one_machine = per_node // tensor
        shards = [0, *([one_machine] if 1 < one_machine < gpus // tensor else [])]
        made = [ways | {"shard": shard} for ways in made for shard in shards]
    if "offload" in fields:
        made = [ways | {"offload": offload} for ways in made for offload in (False, True)]
    return made
