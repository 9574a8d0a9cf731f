"""The picture network gives the numbers of the film network."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from qi_core import Latents, QiError
from qi_plugins.vae_qwen.weights import picture_part

SIZES = [(48, 80), (32, 32), (48, 80), (16, 64)]


def pictures(channels: int = 3, sizes: list[tuple[int, int]] = SIZES) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(channels, *size, generator=generator) * 2 - 1 for size in sizes]


def apart(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape
    return (ours - theirs).abs().max().item()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"input_channels": 4},
        {"num_res_blocks": 2, "dim_mult": [1, 3, 2, 2], "temperal_downsample": [True, False, True]},
    ],
    ids=["rgb", "rgba", "other geometry"],
)
def test_encode_and_decode_equal_diffusers_on_pictures_of_mixed_sizes(make: Any, changes: dict[str, Any]) -> None:
    oracle, ours = make(**changes)
    images = pictures(changes.get("input_channels", 3))
    latents = ours.encode(images)
    assert latents.grids == tuple((1, height // 16, width // 16) for height, width in SIZES)
    assert latents.tokens.dtype == torch.float32
    for image, own, decoded in zip(images, latents.split(), ours.decode(latents), strict=True):
        assert apart(own.tokens, oracle.tokens(image)) <= 1e-5
        theirs = oracle.picture(own.tokens, *own.grids[0][1:])
        assert theirs.std() > 0.05  # a picture, not a constant
        assert apart(decoded, theirs) <= 1e-5


def test_a_batch_of_two_equals_two_of_one(make: Any) -> None:
    # Wide and large enough for the kernels that real pictures meet: torch hands tiny ones to others.
    _, ours = make(base_dim=32)
    images = pictures(sizes=[(96, 144)] * 2)
    together = ours.encode(images)
    alone = Latents.cat([ours.encode([image]) for image in images])
    assert apart(together.tokens, alone.tokens) <= 1e-6
    for both, one in zip(ours.decode(together), together.split(), strict=True):
        assert apart(both, ours.decode(one)[0]) <= 1e-6


def test_small_batches_change_nothing(make: Any) -> None:
    _, whole = make()
    _, cut = make({"batch_pixels": 1})
    images = pictures()
    wanted = whole.encode(images).tokens
    # Of the largest value: which kernel serves a batch of two and which a single picture differs between processors.
    assert apart(cut.encode(images).tokens, wanted) <= 2e-6 * wanted.abs().max().item()


def test_mean_and_std_are_applied_on_both_sides(make: Any) -> None:
    """Forgotten on one side, pictures come back pale or burnt though the loss looks well (musubi-tuner#408)."""
    oracle, ours = make()
    image = pictures(sizes=[(64, 64)])[0]
    theirs = oracle.model(image[None, :, None]).sample[0, :, 0]  # diffusers' own way there and back, not normalised
    back = ours.decode(ours.encode([image]))[0]
    assert apart(back, theirs) <= 1e-5
    assert back.mean().item() == pytest.approx(theirs.mean().item(), abs=1e-6)
    assert back.std().item() == pytest.approx(theirs.std().item(), abs=1e-6)


def test_pixels_of_bytes_are_scaled_to_minus_one_and_one(make: Any) -> None:
    oracle, ours = make()
    bytes_ = torch.randint(0, 256, (3, 32, 48), dtype=torch.uint8)
    assert apart(ours.encode([bytes_]).tokens, oracle.tokens(bytes_ / 255.0 * 2 - 1)) <= 1e-5


def test_decoded_pictures_are_clamped(make: Any) -> None:
    _, ours = make()
    decoded = ours.decode(Latents(tokens=1e4 * torch.randn(4, 16), grids=((1, 2, 2),)))[0]
    assert decoded.abs().max() == 1


def test_an_rgb_picture_is_opaque_to_an_rgba_network(make: Any) -> None:
    _, ours = make(input_channels=4)
    image = pictures()[0]
    opaque = torch.cat([image, torch.ones_like(image[:1])])
    assert torch.equal(ours.encode([image]).tokens, ours.encode([opaque]).tokens)


def test_every_gradient_equals_diffusers(make: Any) -> None:
    oracle, ours = make()
    oracle.model.requires_grad_(True)
    ours.network.requires_grad_(True)
    image = pictures(sizes=[(32, 48)])[0]
    weights = torch.randn(3, 32, 48)
    (ours.decode(ours.encode([image]))[0] * weights).sum().backward()
    (oracle.model(image[None, :, None]).sample[0, :, 0] * weights).sum().backward()
    theirs = dict(oracle.model.named_parameters())
    for name, parameter in ours.network.named_parameters():
        expected = picture_part(theirs[name].grad, parameter.shape)
        assert (parameter.grad - expected).norm() <= 1e-4 * expected.norm() + 1e-6, name


def test_gradients_flow_through_frozen_weights_to_latents(make: Any) -> None:
    _, ours = make()
    tokens = torch.randn(6, 16, requires_grad=True)
    ours.decode(Latents(tokens=tokens, grids=((1, 2, 3),)))[0].square().sum().backward()
    assert tokens.grad is not None
    assert (tokens.grad.abs().sum(dim=1) > 0).all()
    assert all(parameter.grad is None for parameter in ours.network.parameters())


def test_the_place_decides_the_dtype_not_the_callers_autocast(make: Any) -> None:
    _, ours = make()
    images = pictures()
    expected = ours.encode(images).tokens
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(ours.encode(images).tokens, expected)


def test_width_and_scale(make: Any) -> None:
    _, ours = make()
    assert (ours.width, ours.scale) == (16, 16)
    assert ours.encode([]).tokens.shape == (0, 16)


@pytest.mark.parametrize(
    ("image", "told"),
    [
        (torch.zeros(3, 32, 40), "picture 0: 40x32 pixels; both sides must be multiples of 16"),
        (torch.zeros(4, 32, 32), r"picture 0: shape \(4, 32, 32\); wanted \(3, height, width\)"),
        (torch.zeros(3, 32, 32, dtype=torch.int64), "picture 0: torch.int64; wanted uint8, or floats"),
    ],
)
def test_an_unfit_picture_is_refused(make: Any, image: Tensor, told: str) -> None:
    _, ours = make()
    with pytest.raises(QiError, match=told):
        ours.encode([image])


def test_latents_of_another_autoencoder_are_refused(make: Any) -> None:
    _, ours = make()
    with pytest.raises(QiError, match="latents of 64 values a token; this autoencoder has 16"):
        ours.decode(Latents(tokens=torch.zeros(4, 64), grids=((1, 2, 2),)))
