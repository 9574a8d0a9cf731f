"""Pictures of any sizes <-> packed, normalised latents."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from attrs import field, frozen
from torch import Tensor

from qi_core.data import Grid, Latents
from qi_core.errors import QiError
from qi_plugins.vae_qwen.config import VaeConfig
from qi_plugins.vae_qwen.network import VaeNetwork
from qi_plugins.vae_qwen.packing import SIDE, pack, unpack
from qi_plugins.vae_qwen.tiles import Tiling, decode_tiled


@frozen(kw_only=True, eq=False)
class QwenVae:
    """The live autoencoder. Its weights are frozen, gradients flow through to pixels and to latents."""

    network: VaeNetwork
    config: VaeConfig
    tiling: Tiling | None
    """None: every picture in one piece."""
    batch_pixels: int
    """At most so many pixels at once (one picture at least)."""
    _mean: Tensor = field(init=False)
    _std: Tensor = field(init=False)

    @_mean.default
    def _config_mean(self) -> Tensor:
        return self._per_channel(self.config.latents_mean)

    @_std.default
    def _config_std(self) -> Tensor:
        return self._per_channel(self.config.latents_std)

    def _per_channel(self, values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=self._weight.device)[:, None, None]

    @property
    def _weight(self) -> Tensor:
        return self.network.quant_conv.weight

    @property
    def width(self) -> int:
        """Values in a token: z_dim channels of 2 x 2 latent pixels."""
        return self.config.z_dim * SIDE * SIDE

    @property
    def scale(self) -> int:
        """Pixels along one side of a token (released: 16)."""
        return self.config.shrink * SIDE

    def encode(self, images: Sequence[Tensor]) -> Latents:
        """Pictures, each (3, H, W) uint8 or float in [-1, 1] -> normalised latents, float32, the posterior's mode.

        Pictures of one size run together. A network of four channels also takes (4, H, W), the last being alpha; a
        picture of three gets an opaque one. Pictures are never tiled here: what is trained on must have no seams.
        """
        grids = tuple(self._grid(i, image) for i, image in enumerate(images))
        if not grids:
            return Latents(tokens=self._mean.new_zeros(0, self.width), grids=())

        def run(members: list[int]) -> Tensor:
            pixels_BCHW = torch.stack([self._pixels(images[i]) for i in members])
            z_BCHW = self.network.encode(pixels_BCHW.contiguous(memory_format=torch.channels_last)).float()
            return pack((z_BCHW - self._mean) / self._std)

        return Latents(tokens=torch.cat(self._by_size(grids, run)), grids=grids)

    def decode(self, latents: Latents, *, whole: bool = False) -> list[Tensor]:
        """Latents -> pictures, each (3, H, W) float32 clamped to [-1, 1]; (4, H, W) from a network of four channels.

        With tiling, pictures larger than a tile are blended from several; never where a gradient is asked for, nor
        with ``whole``.
        """
        if latents.tokens.shape[-1] != self.width:
            raise QiError(f"latents of {latents.tokens.shape[-1]} values a token; this autoencoder has {self.width}")
        parts = latents.split()

        def run(members: list[int]) -> Tensor:
            _, rows, columns = latents.grids[members[0]]
            tokens = torch.stack([parts[i].tokens for i in members]).to(self._weight.device, torch.float32)
            z_BCHW = (unpack(tokens, rows, columns) * self._std + self._mean).to(self._weight.dtype)
            return self._decode(z_BCHW, whole).float().clamp(-1, 1)

        return self._by_size(latents.grids, run)

    def _decode(self, z_BCHW: Tensor, whole: bool) -> Tensor:
        z_BCHW = z_BCHW.contiguous(memory_format=torch.channels_last)
        training = torch.is_grad_enabled() and (z_BCHW.requires_grad or self._trained)
        if self.tiling is None or whole or training or max(z_BCHW.shape[2:]) <= self.tiling.size:
            return self.network.decode(z_BCHW)
        return decode_tiled(self.network.decode, z_BCHW, self.tiling, self.config.shrink)

    @property
    def _trained(self) -> bool:
        return any(parameter.requires_grad for parameter in self.network.parameters())

    def _by_size(self, grids: Sequence[Grid], run: Callable[[list[int]], Tensor]) -> list[Tensor]:
        """``run`` on groups of pictures of one size; its rows in the order of the pictures."""
        results: list[Tensor | None] = [None] * len(grids)
        # The place's dtype decides, not an autocast that the caller happens to be in.
        with torch.autocast(self._weight.device.type, enabled=False):
            for members in self._groups(grids):
                for i, result in zip(members, run(members), strict=True):
                    results[i] = result
        return [result for result in results if result is not None]

    def _groups(self, grids: Sequence[Grid]) -> Iterator[list[int]]:
        sizes: dict[Grid, list[int]] = {}
        for i, grid in enumerate(grids):
            sizes.setdefault(grid, []).append(i)
        for (_, rows, columns), members in sizes.items():
            count = max(1, self.batch_pixels // (rows * columns * self.scale**2))
            yield from (members[i : i + count] for i in range(0, len(members), count))

    def _grid(self, index: int, image: Tensor) -> Grid:
        channels = (3, 4) if self.config.input_channels == 4 else (3,)
        if image.ndim != 3 or image.shape[0] not in channels:
            raise QiError(
                f"picture {index}: shape {tuple(image.shape)}; wanted ({' or '.join(map(str, channels))}, height, "
                "width); convert it before encoding"
            )
        if image.dtype != torch.uint8 and not image.is_floating_point():
            raise QiError(f"picture {index}: {image.dtype}; wanted uint8, or floats in [-1, 1]")
        height, width = image.shape[1:]
        if height <= 0 or width <= 0 or height % self.scale or width % self.scale:
            raise QiError(
                f"picture {index}: {width}x{height} pixels; both sides must be multiples of {self.scale}; "
                "resize or crop it before encoding"
            )
        return (1, height // self.scale, width // self.scale)

    def _pixels(self, image: Tensor) -> Tensor:
        image = image.to(self._weight.device)
        image = image.float() / 127.5 - 1 if image.dtype == torch.uint8 else image
        if image.shape[0] < self.config.input_channels:
            image = torch.cat([image, torch.ones_like(image[:1])])
        return image.to(self._weight.dtype)
