"""How large a cache will be, before anything is encoded. No torch here."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import field, frozen, validators

from qi_core.cache.settings import ITEMSIZE, CacheSettings

ROW_BYTES = 128
"""Of the index for an entry: 64 beside its shard, and 64 in a merged copy."""


@frozen(kw_only=True)
class Extent:
    """Bytes on the disk."""

    latents: int
    text: int
    index: int

    @property
    def total(self) -> int:
        """All together."""
        return self.latents + self.text + self.index


@frozen(kw_only=True)
class Estimated:
    """What is to be kept of one data set."""

    samples: float = field(validator=validators.ge(0))
    """Different ones."""
    sizes: Sequence[tuple[int, int]] = field(validator=validators.min_len(1))
    """(height, width) in pixels, each as often as the others."""
    scale: int = field(validator=validators.gt(0))
    """Pixels along one side of a token."""
    latent_width: int
    """Values in a token of a picture."""
    text_tokens: float
    """Of a caption."""
    text_width: int
    """Values in a token of text."""
    captions: float = 1.0
    """Of a sample, different ones."""
    pictures: float = 1.0
    """Of a sample, references included."""

    def extent(self, settings: CacheSettings) -> Extent:
        """tokens x values x bytes of a value, of each picture and each caption: nothing is padded."""
        itemsize = ITEMSIZE[settings.dtype]
        tokens = sum((height // self.scale) * (width // self.scale) for height, width in self.sizes) / len(self.sizes)
        pictures = self.samples * self.pictures if settings.latents else 0.0
        captions = self.samples * self.captions if settings.text else 0.0
        return Extent(
            latents=round(pictures * tokens * self.latent_width * itemsize),
            text=round(captions * self.text_tokens * self.text_width * itemsize),
            index=round((pictures + captions) * ROW_BYTES),
        )
