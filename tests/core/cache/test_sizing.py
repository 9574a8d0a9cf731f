"""The size of a cache beforehand, against figures that are known."""

from __future__ import annotations

from pathlib import Path

import pytest

from qi_core.cache.encoders import CachedAutoencoder
from qi_core.cache.settings import CacheSettings
from qi_core.cache.sizing import Estimated

QWEN = {"scale": 16, "latent_width": 64, "text_width": 3584}
"""16 channels of 2 x 2 latent pixels a token; Qwen2.5-VL-7B."""


def test_a_billion_samples_are_a_petabyte_and_a_half_and_their_latents_33_terabytes() -> None:
    samples = Estimated(samples=1e9, sizes=[(256, 256)], text_tokens=200, **QWEN)
    both = samples.extent(CacheSettings(path=Path("cache")))
    assert both.latents + both.text == pytest.approx(1.47e15, rel=0.005)
    alone = samples.extent(CacheSettings(path=Path("cache"), text=False))
    assert alone.latents == pytest.approx(33e12, rel=0.01)
    assert alone.text == 0
    assert alone.index < 0.005 * alone.latents


def test_exact_lengths_in_bf16_are_a_seventh_of_padded_ones_in_fp32() -> None:
    """100,000 pictures of 1328 pixels: with captions padded to 1024 tokens behind a template of 34, in fp32, they
    would take 1.69 TB."""
    padded = Estimated(samples=1e5, sizes=[(1328, 1328)], text_tokens=1024 + 34, **QWEN)
    assert padded.extent(CacheSettings(path=Path("c"), dtype="fp32")).total == pytest.approx(1.69e12, rel=0.005)
    ours = Estimated(samples=1e5, sizes=[(1328, 1328)], text_tokens=200, **QWEN)
    assert ours.extent(CacheSettings(path=Path("c"))).total == pytest.approx(0.23e12, rel=0.01)


def test_it_is_what_lies_on_the_disk(tmp_path: Path) -> None:
    import torch

    from support.caching import shelf_at
    from support.thirds import Thirds

    shelf = shelf_at(tmp_path)
    images = [torch.full((3, 8, 12 + 4 * (n % 2)), n, dtype=torch.uint8) for n in range(100)]
    CachedAutoencoder(Thirds(), shelf, b"thirds").encode(images)
    shelf.close()
    told = Estimated(samples=100, sizes=[(8, 12), (8, 16)], scale=4, latent_width=3, text_tokens=0, text_width=1)
    extent = told.extent(CacheSettings(path=tmp_path, text=False))
    assert sum(path.stat().st_size - 4096 for path in tmp_path.glob("*.safetensors")) == extent.latents
