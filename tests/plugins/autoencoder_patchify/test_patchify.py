"""Autoencoder ``patchify``: lossless, any sizes, the given order."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from qi_core import Latents, Place, QiError
from qi_plugins.autoencoder_patchify.component import Patchify
from qi_plugins.autoencoder_patchify.patches import Patches


@pytest.fixture
def patches(tmp_path: Path) -> Patches:
    return Patchify(patch=8).build(Place(device=torch.device("cpu"), dtype=torch.float32, seed=0, folder=tmp_path))


def picture(height: int, width: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("sizes", [[(16, 64)] * 3, [(16, 64), (8, 8), (24, 16)]], ids=["one size", "mixed sizes"])
def test_every_byte_comes_back(patches: Patches, sizes: list[tuple[int, int]]) -> None:
    images = [picture(*size, seed=i) for i, size in enumerate(sizes)]
    latents = patches.encode(images)
    assert latents.tokens.shape == (sum(h * w // 64 for h, w in sizes), patches.width)
    assert latents.grids == tuple((1, h // 8, w // 8) for h, w in sizes)
    for image, back in zip(images, patches.decode(latents), strict=True):
        assert torch.equal(((back + 1) * 127.5).round().to(torch.uint8), image)


def test_tokens_are_row_major_and_each_is_one_square(patches: Patches) -> None:
    image = picture(16, 24)
    tokens = patches.encode([image]).tokens
    square = image[:, 8:16, 16:24].float() / 127.5 - 1  # second row, third column of three
    assert torch.equal(tokens[1 * 3 + 2], square.flatten())


def test_a_batch_of_mixed_kinds_equals_its_parts(patches: Patches) -> None:
    image = picture(8, 16)
    as_float = image.float() / 127.5 - 1
    together = patches.encode([image, as_float]).split()
    assert torch.equal(together[0].tokens, together[1].tokens)


def test_decoding_clamps(patches: Patches) -> None:
    latents = Latents(tokens=torch.full((1, patches.width), 1.5), grids=((1, 1, 1),))
    assert patches.decode(latents)[0].max() == 1.0


@pytest.mark.parametrize("shape", [(3, 12, 16), (1, 16, 16)])
def test_a_picture_that_does_not_fit_is_told(patches: Patches, shape: tuple[int, int, int]) -> None:
    with pytest.raises(QiError, match="multiples of 8"):
        patches.encode([torch.zeros(shape)])


def test_moving_pictures_are_refused(patches: Patches) -> None:
    with pytest.raises(QiError, match="one frame"):
        patches.decode(Latents(tokens=torch.zeros(2, patches.width), grids=((2, 1, 1),)))


def test_patch_must_be_positive() -> None:
    with pytest.raises(ValueError, match="patch"):
        Patchify(patch=0)
