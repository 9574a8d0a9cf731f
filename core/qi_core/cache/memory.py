"""What samples turned out to be, so that later epochs, and other runs, need not open their files.

Who is remembered is not made again: its caption comes from a record of some 200 bytes, its latents from the cache. What
is trained on is the same either way, since what was encoded just now is rounded as what is kept is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from qi_core.cache.encoders import CachedAutoencoder
from qi_core.cache.names import Known, Names
from qi_core.cache.shelf import Shelf
from qi_core.data import Latents, Pair, Sample
from qi_core.pixels import Unusable

if TYPE_CHECKING:
    from torch import Tensor


class Memory:
    """Of samples and pairs that their source has a name for (``qi_core.source.Named``), and without references."""

    def __init__(self, shelf: Shelf, autoencoder: CachedAutoencoder, pipeline: bytes) -> None:
        """``pipeline``: what decides samples and latents beside their names: encoder, filters, versions."""
        self._names, self._autoencoder = Names(shelf, pipeline), autoencoder

    def recall(self, names: Sequence[bytes | None]) -> list[Sample | Pair | None]:
        """Samples without pixels; None for those that have to be made."""
        asked = [i for i, name in enumerate(names) if name is not None]
        known = self._names.get([name for name in names if name is not None])
        there = [(i, each) for i, each in zip(asked, known, strict=True) if each is not None]
        try:
            blocks = iter(self._autoencoder.take([id for _, each in there for id in _pictures(each)]))
        except Unusable:  # one of them is known not to be finite: they are made, and it is found again
            return [None] * len(names)
        found: list[Sample | Pair | None] = [None] * len(names)
        for i, each in there:
            own = [next(blocks) for _ in _pictures(each)]
            kept = [self._autoencoder.packed([block]) for block in own if block is not None]
            if len(kept) == len(own):
                found[i] = _recalled(each, kept)
        return found

    def learn(self, name: bytes | None, sample: Any) -> None:
        """A sample that was made, before it is encoded."""
        pixels = _pixels(sample)
        if name is None or not pixels:
            return
        first, *loser = pixels
        _, height, width = first.shape
        known = Known(
            key=sample.key, prompt=sample.prompt, height=height, width=width, latents=self._autoencoder.id(first),
            text=b"", category=getattr(sample, "category", ""), loser=b"".join(map(self._autoencoder.id, loser)),
        )  # fmt: skip
        self._names.put(name, known)


def _pixels(sample: Any) -> list[Tensor]:
    """Of its picture, or of winner and loser; none where they are latents already, or where there is more to a sample:
    references, or errors that a pair brought along."""
    if isinstance(sample, Pair):
        if sample.stored:
            return []
        pictures: list[Tensor | Latents] = [sample.winner, sample.loser]
    elif isinstance(sample, Sample) and sample.latents is None:
        pictures = [sample.image]
    else:
        return []
    found = [picture for picture in pictures if not isinstance(picture, Latents)]
    return found if len(found) == len(pictures) and not sample.references else []


def _pictures(known: Known) -> tuple[bytes, ...]:
    return (known.latents, known.loser) if known.loser else (known.latents,)


def _recalled(known: Known, kept: Sequence[Latents]) -> Sample | Pair:
    import torch

    if known.loser:
        winner, loser = kept
        return Pair(key=known.key, prompt=known.prompt, winner=winner, loser=loser)
    return Sample(
        key=known.key,
        prompt=known.prompt,
        image=torch.empty(3, 0, 0, dtype=torch.uint8),
        latents=kept[0],
        category=known.category,
    )
