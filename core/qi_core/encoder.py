"""The two forms of encoder: pixels to latents and back, and text (with pictures) to tokens. Both are frozen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from attrs import frozen

if TYPE_CHECKING:
    from torch import Tensor

    from qi_core.data import Condition, Grid, Latents, Sample
    from qi_core.place import Closing
    from qi_core.resting import Resting


class Autoencoder(Protocol):
    """Pixels <-> the denoiser's space. Encoding is deterministic (the mode of a posterior, not a sample of it)."""

    @property
    def width(self) -> int:
        """Values in a token (D)."""
        ...

    @property
    def scale(self) -> int:
        """Pixels along one side of a token; heights and widths are multiples of it."""
        ...

    def encode(self, images: Sequence[Tensor]) -> Latents:
        """Pictures, each (3, H, W) uint8 or float in [-1, 1], each of its own size -> latents (float32), normalised.

        Raises QiError for a picture whose height or width is no multiple of ``scale``.
        """
        ...

    def decode(self, latents: Latents, *, whole: bool = False) -> list[Tensor]:
        """Latents -> pictures, each (3, H, W) float32 in [-1, 1].

        ``whole``: each exactly, in one piece, even if that takes more memory than the settings wish for.
        """
        ...


class Conditioner(Protocol):
    """Text, and for editing the pictures it speaks of -> tokens. Exact lengths, no padding."""

    @property
    def width(self) -> int:
        """Values in a token (W)."""
        ...

    def encode(self, prompts: Sequence[str], references: Sequence[Sequence[Tensor]] = ()) -> Condition:
        """Prompts -> packed text tokens (``Condition.references`` is not set here: that is the autoencoder's part).

        ``references``: empty, or for each prompt its pictures, each (3, H, W) uint8. The empty prompt is a prompt.
        """
        ...


@frozen(kw_only=True, eq=False)
class Encoders:
    """Both, as an objective gets them."""

    autoencoder: Autoencoder
    conditioner: Conditioner
    cache: Closing | None = None
    """What keeps the values that they give, where something does."""
    resting: Resting | None = None
    """The conditioner, behind what keeps its values, where it is in memory only while it is asked."""

    def close(self) -> None:
        """See ``Closing``."""
        if self.cache is not None:
            self.cache.close()

    def rest(self) -> None:
        """Nobody asks for a while."""
        if self.resting is not None:
            self.resting.rest()

    def latents(self, samples: Sequence[Sample]) -> Latents:
        """Of their pictures; those that are not known already are encoded in one call."""
        from qi_core.data import Latents

        unknown = [each.image for each in samples if each.latents is None]
        if len(unknown) == len(samples):
            return self.autoencoder.encode(unknown)
        fresh = iter(self.autoencoder.encode(unknown).split() if unknown else ())
        parts = [next(fresh) if each.latents is None else each.latents for each in samples]
        return Latents.cat([part.to(parts[0].tokens.device) for part in parts])

    def condition(self, prompts: Sequence[str], references: Sequence[Sequence[Tensor]] = ()) -> Condition:
        """Prompts and reference pictures (uint8) -> the whole condition: text tokens and clean reference latents."""
        from attrs import evolve

        condition = self.conditioner.encode(prompts, references)
        flat = [image for own in references for image in own]
        if not flat:
            return condition
        return evolve(
            condition,
            references=self.autoencoder.encode(flat).to(condition.text.device),
            reference_counts=tuple(len(own) for own in references),
        )

    def grid(self, height: int, width: int) -> Grid:
        """The grid of a picture of so many pixels. Raises QiError if a side is no multiple of ``scale``."""
        from qi_core.errors import QiError

        scale = self.autoencoder.scale
        if height <= 0 or width <= 0 or height % scale or width % scale:
            raise QiError(f"size {width}x{height}: both sides must be multiples of {scale} pixels for this autoencoder")
        return (1, height // scale, width // scale)
