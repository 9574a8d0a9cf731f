"""How large ``[data.cache]`` will be, told before anything is encoded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from qi_core.cache.sizing import Estimated
from qi_core.planning import Size, Sized
from qi_registry.planning.jobs import PICTURES, Scene

if TYPE_CHECKING:
    from qi_registry.recipe import Recipe


def lines(recipe: Recipe, scenes: Sequence[Scene], samples: int | None) -> list[str]:
    """For ``qi plan``: nothing where the recipe keeps nothing.

    ``samples``: different ones in the data; None: as many as the run can see at most.
    """
    settings = recipe.data.cache
    if settings is None:
        return []
    autoencoder, conditioner = _size(recipe.autoencoder), _size(recipe.conditioner)
    first = scenes[0]
    one = Estimated(
        samples=1,
        sizes=[(scene.side, scene.side) for scene in scenes],
        scale=autoencoder.scale,
        latent_width=autoencoder.width,
        text_tokens=first.text,
        text_width=conditioner.width,
        pictures=PICTURES.get(recipe.source.gives.__name__, 1) + first.references,
    ).extent(settings)
    count = samples or recipe.train.steps * recipe.train.batch
    whose = f"{count:,} samples" if samples else f"at most {count:,} samples (train.steps x train.batch; --samples)"
    kinds = [("latents", one.latents, settings.latents), ("text", one.text, settings.text)]
    parts = ", ".join(f"{name} {_bytes(size * count)}" for name, size, kept in kinds if kept)
    each = f"{_bytes(one.total)} a sample, {settings.dtype}"
    found = [f"data.cache at {settings.path}: {_bytes(one.total * count)} for {whose}: {parts} ({each})"]
    if settings.text and one.text > 0.5 * one.total:
        share = one.text / one.total
        found.append(f"{share:.0%} of the cache is text; with data.cache.text = false captions are encoded each time")
    if settings.quota and settings.quota < one.total * count:
        then = "then storing stops" if settings.full == "stop" else "then what was not read for longest leaves"
        found.append(
            f"data.cache.quota: {_bytes(settings.quota)} are full after {settings.quota // one.total:,} samples; {then}"
        )
    return found


def _size(component: object) -> Size:
    """Told by the part itself: the table above it could not have been made else."""
    return component.plan_size() if isinstance(component, Sized) else Size(width=0)


def _bytes(size: float) -> str:
    """With a unit, three digits."""
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if size < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} PB"
