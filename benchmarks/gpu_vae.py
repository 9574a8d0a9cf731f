"""What a card does in the autoencoder. Part of gpu.py."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from attrs import frozen
from card import SCALE, seconds

from qi_core import Place
from qi_plugins.vae_qwen.autoencoder import QwenVae
from qi_plugins.vae_qwen.config import VaeConfig
from qi_plugins.vae_qwen.network import VaeNetwork


@frozen(kw_only=True)
class Pictures:
    """The VAE on pictures of one size."""

    pixels: int
    pictures: int
    encode: float | None
    """Pictures a second."""
    decode: float | None


def vae(place: Place, pixels: Sequence[int], tokens: int, rounds: int) -> list[Pictures]:
    """The released geometry; an eighth of the training batch at once."""
    torch.manual_seed(0)
    config = VaeConfig()
    network = VaeNetwork(config).eval().requires_grad_(False)
    network.to(place.device, place.dtype)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    coder = QwenVae(network=network, config=config, tiling=None, batch_pixels=1 << 22)
    rows: list[Pictures] = []
    for size in pixels:
        pictures = max(1, tokens // 8 // (size // SCALE) ** 2)
        images = [torch.rand(3, size, size, device=place.device) * 2 - 1 for _ in range(pictures)]
        with torch.no_grad():
            latents = coder.encode(images)
            encode = seconds(lambda images=images: coder.encode(images), place.device, rounds)  # type: ignore[misc]
            decode = seconds(lambda latents=latents: coder.decode(latents), place.device, rounds)  # type: ignore[misc]
        rows.append(
            Pictures(
                pixels=size,
                pictures=pictures,
                encode=pictures / encode if encode else None,
                decode=pictures / decode if decode else None,
            )
        )
    return rows
