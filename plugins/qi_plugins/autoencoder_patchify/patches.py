"""Pixels <-> tokens.

Shapes: N tokens of all pictures, D = 3 * patch * patch values in a token, ordered (channel, row, column).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from attrs import frozen
from torch import Tensor

from qi_core import Latents, QiError


@frozen(kw_only=True)
class Patches:
    """A live ``patchify``."""

    patch: int
    device: torch.device

    @property
    def width(self) -> int:
        return 3 * self.patch * self.patch

    @property
    def scale(self) -> int:
        return self.patch

    def encode(self, images: Sequence[Tensor]) -> Latents:
        """See ``Autoencoder.encode``."""
        if not images:
            return Latents(tokens=torch.empty(0, self.width, device=self.device), grids=())
        for image in images:
            self._check(image)
        if len({(image.shape, image.dtype) for image in images}) == 1:  # one cut for the whole batch
            tokens = self._cut(torch.stack(tuple(images)))
        else:
            tokens = torch.cat([self._cut(image[None]) for image in images])
        grids = tuple((1, image.shape[1] // self.patch, image.shape[2] // self.patch) for image in images)
        return Latents(tokens=tokens, grids=grids)

    def decode(self, latents: Latents, *, whole: bool = False) -> list[Tensor]:
        """See ``Autoencoder.decode``. Values beyond [-1, 1] are clamped."""
        if any(frames != 1 for frames, _, _ in latents.grids):
            raise QiError(f"patchify: cannot decode grids {latents.grids}; it knows still pictures (one frame) alone")
        if len(set(latents.grids)) == 1:
            return list(self._join(latents.tokens, latents.grids[0][1], latents.grids[0][2]))
        return [self._join(one.tokens, one.grids[0][1], one.grids[0][2])[0] for one in latents.split()]

    def _check(self, image: Tensor) -> None:
        channels, height, width = image.shape
        if channels != 3 or height % self.patch or width % self.patch or not height or not width:
            raise QiError(
                f"patchify: a picture of {channels} channels, {width}x{height} pixels; "
                f"wanted 3 channels and sides that are multiples of {self.patch}; change the size or 'patch'"
            )

    def _cut(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (N, D) float32."""
        p = self.patch
        images = images.to(self.device)
        values = images.float() / 127.5 - 1.0 if images.dtype == torch.uint8 else images.float()
        count, _, height, width = values.shape
        parts = values.view(count, 3, height // p, p, width // p, p).permute(0, 2, 4, 1, 3, 5)
        return parts.reshape(-1, self.width)

    def _join(self, tokens: Tensor, rows: int, columns: int) -> Tensor:
        """(N, D) of pictures of one size -> (B, 3, H, W) float32 in [-1, 1]."""
        p = self.patch
        parts = tokens.float().view(-1, rows, columns, 3, p, p).permute(0, 3, 1, 4, 2, 5)
        return parts.reshape(-1, 3, rows * p, columns * p).clamp(-1.0, 1.0)
