"""On CUDA the same weights give diffusers' numbers, in float32 and in bfloat16."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLQwenImage
from torch import Tensor

from qi_core import Latents, Place
from qi_plugins.vae_qwen.component import VaeQwen
from qi_plugins.vae_qwen.packing import pack, unpack

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("no_tf32")]
DEVICE = torch.device("cuda")
SIZES = [(48, 80), (128, 64), (48, 80)]
LIMITS = {torch.float32: 1e-4, torch.bfloat16: 2e-2}


def apart(found: Tensor, expected: Tensor, dtype: torch.dtype) -> float:
    """float32: largest difference; bfloat16: relative L2."""
    assert found.shape == expected.shape
    difference = found - expected
    return (difference.abs().max() if dtype == torch.float32 else difference.norm() / expected.norm()).item()


@pytest.mark.parametrize("dtype", LIMITS, ids=["float32", "bfloat16"])
def test_encode_and_decode_equal_diffusers(folder: Callable[..., Path], tmp_path: Path, dtype: torch.dtype) -> None:
    """Ours in each dtype against theirs in float32."""
    path = folder(z_dim=16, latents_mean=[0.3] * 16, latents_std=[1.7] * 16)
    place = Place(device=DEVICE, dtype=dtype, seed=0, folder=tmp_path)
    ours = VaeQwen(path=path).build(place)
    theirs: Any = AutoencoderKLQwenImage.from_pretrained(path).to(DEVICE).eval()
    generator = torch.Generator().manual_seed(1)
    images = [(torch.rand(3, *size, generator=generator) * 2 - 1).to(DEVICE) for size in SIZES]
    with torch.no_grad():
        latents = ours.encode(images)
        assert latents.tokens.device.type == DEVICE.type
        for image, own, decoded in zip(images, latents.split(), ours.decode(latents), strict=True):
            z = theirs.encode(image[None, :, None]).latent_dist.mode()[:, :, 0]
            assert apart(own.tokens, pack((z - 0.3) / 1.7)[0], dtype) <= LIMITS[dtype]
            rows, columns = own.grids[0][1:]
            z = unpack(own.tokens[None], rows, columns) * 1.7 + 0.3
            picture = theirs.decode(z[:, :, None]).sample[0, :, 0]
            assert picture.std() > 0.05  # a picture, not a constant
            assert apart(decoded, picture.clamp(-1, 1), dtype) <= LIMITS[dtype]


def test_what_comes_from_the_processor_is_taken(folder: Callable[..., Path], tmp_path: Path) -> None:
    """Sources give uint8 pictures on the CPU; samplers may give latents there."""
    ours = VaeQwen(path=folder()).build(Place(device=DEVICE, dtype=torch.float32, seed=0, folder=tmp_path))
    image = torch.randint(0, 256, (3, 32, 48), dtype=torch.uint8)
    latents = ours.encode([image])
    assert latents.tokens.device.type == DEVICE.type
    back = ours.decode(Latents(tokens=latents.tokens.cpu(), grids=latents.grids))[0]
    assert back.device.type == DEVICE.type
