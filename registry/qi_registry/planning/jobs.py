"""A recipe -> what is to be done in an update, without building anything."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs

from qi_core.errors import QiError
from qi_core.planning import Costed, Shown, Size, Sized
from qi_registry.planning.estimate import Job, tokens
from qi_registry.recipe import Recipe

PICTURES = {"Pairs": 2}
"""Pictures of a sample, by the type of batch that its source gives; 1 where it isn't here."""


@attrs.frozen(kw_only=True)
class Scene:
    """What one sample holds."""

    side: int
    """Pixels: the area of a picture as a square's side."""
    text: int
    """Tokens of a caption."""
    references: int
    """Pictures that it is told by, each as large."""


def sides(recipe: Recipe) -> tuple[tuple[int, ...], str]:
    """Sizes of the pictures that the source gives, smallest first, and what was assumed."""
    found = sorted({side for source in _walk(recipe.source) for side in source.sides()})
    if found:
        return tuple(found), ""
    preview = recipe.preview
    side = round((preview.height * preview.width) ** 0.5)
    return (side,), f"the source does not say how large its pictures are: taken as [preview], {side} pixels (--pixels)"


def _walk(component: Any) -> Iterator[Shown]:
    """The sources in a source that know."""
    if isinstance(component, Shown) and component.sides():
        yield component
    elif attrs.has(type(component)):
        for field in attrs.fields(type(component)):
            value = getattr(component, field.name)
            for item in value if isinstance(value, tuple) else (value,):
                yield from _walk(item)


def job(recipe: Recipe, scene: Scene, like: Job | None = None) -> tuple[Job, tuple[str, ...]]:
    """And what was assumed. ``like``: another job of the same network, whose network is taken.

    Raises QiError where a part cannot say what it costs.
    """
    import torch

    from qi_core.place import Place
    from qi_core.shadow import Shadowed
    from qi_registry.specs import encoded_elsewhere

    notes: list[str] = []
    autoencoder = _size(recipe.autoencoder, "autoencoder", notes)
    conditioner = _size(recipe.conditioner, "conditioner", notes)
    widths = autoencoder.width, conditioner.width
    frozen, drawing = autoencoder.parameters + conditioner.parameters, 0
    if encoded_elsewhere(recipe) and conditioner.parameters:
        frozen, drawing = autoencoder.parameters, conditioner.parameters
        notes.append(
            f"producers encode: the trainer loads the conditioner ({conditioner.parameters / 1e9:.3g} billion weights) "
            "for pictures alone, when it computes nothing else; producers on the same GPU need theirs beside it"
        )
    denoiser: Any = recipe.denoiser
    if not isinstance(denoiser, Costed):
        raise QiError(
            f"denoiser: {type(denoiser).__name__} does not say what it costs, so nothing can be planned with it; "
            "its plugin would have to offer costs() (qi_core.planning.Costed)"
        )
    costs, plain = denoiser.costs(*widths), recomputed(denoiser, "none").costs(*widths)
    network = costs.network() if like is None else like.network
    sharding = network.sharding() if like is None else like.sharding
    if recipe.adapter is not None and like is None:
        place = Place(device=torch.device("meta"), dtype=torch.bfloat16, seed=0, folder=Path())
        adapter: Any = recipe.adapter
        adapter = attrs.evolve(adapter, weights=None) if _has(adapter, "weights") else adapter  # a file, not needed
        sharding = adapter.apply(network, place).sharding(sharding)
    shadows: tuple[str, ...] = ("ema",) if recipe.train.ema else ()
    if isinstance(recipe.objective, Shadowed):
        shadows += tuple(recipe.objective.shadows())
    gives = recipe.source.gives.__name__
    asked = len(shadows) - ("ema" in shadows)
    if gives in ("Pairs", "Rollouts") and not asked and recipe.adapter is not None:
        asked = 1
    if asked:
        notes.append(f"{asked} forward pass(es) without gradients, of a reference or an older policy")
    if gives == "Rollouts":
        notes.append("one noisy step a picture; drawing and judging the pictures is not in it")
    one = tokens(scene.side, autoencoder.scale, scene.text, scene.references)
    return (
        Job(
            costs=costs,
            plain=plain,
            network=network,
            sharding=sharding,
            adapted=recipe.adapter is not None,
            sample=(one,) * PICTURES.get(gives, 1),
            batch=recipe.train.batch,
            shadows=shadows,
            asked=asked,
            encoders=frozen,
            drawing=drawing,
        ),
        tuple(notes),
    )


def recomputed(denoiser: Any, checkpointing: str) -> Any:
    """The denoiser with another activation checkpointing, if it knows that one; else itself."""
    if not _has(denoiser, "checkpointing"):
        return denoiser
    try:
        return attrs.evolve(denoiser, checkpointing=checkpointing)
    except ValueError:
        return denoiser


def _has(component: Any, name: str) -> bool:
    return attrs.has(type(component)) and any(field.name == name for field in attrs.fields(type(component)))


def _size(component: Any, kind: str, notes: list[str]) -> Size:
    if not isinstance(component, Sized):
        raise QiError(
            f"{kind}: {type(component).__name__} does not say how wide its tokens are, so nothing can be planned with "
            "it; its plugin would have to offer plan_size() (qi_core.planning.Sized)"
        )
    size = component.plan_size()
    notes += [size.note] if size.note else []
    return size
