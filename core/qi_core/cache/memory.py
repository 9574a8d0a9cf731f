"""What samples turned out to be, so that later epochs, and other runs, need not open their files.

Who is remembered is not made again: its caption comes from a record of some 200 bytes, its latents from the cache. What
is trained on is the same either way, since what was encoded just now is rounded as what is kept is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qi_core.cache.encoders import CachedAutoencoder
from qi_core.cache.names import Known, Names
from qi_core.cache.shelf import Shelf
from qi_core.data import Sample
from qi_core.pixels import Unusable


class Memory:
    """Of samples that their source has a name for (``qi_core.source.Named``), and that have no references."""

    def __init__(self, shelf: Shelf, autoencoder: CachedAutoencoder, pipeline: bytes) -> None:
        """``pipeline``: what decides samples and latents beside their names: encoder, filters, versions."""
        self._names, self._autoencoder = Names(shelf, pipeline), autoencoder

    def recall(self, names: Sequence[bytes | None]) -> list[Sample | None]:
        """Samples without pixels; None for those that have to be made."""
        import torch

        asked = [i for i, name in enumerate(names) if name is not None]
        known = self._names.get([name for name in names if name is not None])
        there = [(i, each) for i, each in zip(asked, known, strict=True) if each is not None]
        try:
            blocks = self._autoencoder.take([each.latents for _, each in there])
        except Unusable:  # one of them is known not to be finite: they are made, and it is found again
            return [None] * len(names)
        found: list[Sample | None] = [None] * len(names)
        for (i, each), block in zip(there, blocks, strict=True):
            if block is not None:
                found[i] = Sample(
                    key=each.key,
                    prompt=each.prompt,
                    image=torch.empty(3, 0, 0, dtype=torch.uint8),
                    latents=self._autoencoder.packed([block]),
                    category=each.category,
                )
        return found

    def learn(self, name: bytes | None, sample: Any) -> None:
        """A sample that was made, before it is encoded."""
        if name is None or not isinstance(sample, Sample) or sample.references or sample.latents is not None:
            return
        _, height, width = sample.image.shape
        latents = self._autoencoder.id(sample.image)
        known = Known(
            key=sample.key, prompt=sample.prompt, height=height, width=width, latents=latents, text=b"",
            category=sample.category,
        )  # fmt: skip
        self._names.put(name, known)
