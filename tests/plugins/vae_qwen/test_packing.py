"""A token is 2 x 2 latent pixels: feature c*4 + dy*2 + dx, tokens row-major."""

from __future__ import annotations

import torch
from diffusers import QwenImagePipeline

from qi_plugins.vae_qwen.packing import pack, unpack


def test_each_value_stands_where_the_rule_says() -> None:
    z = torch.arange(2 * 3 * 4 * 6).reshape(2, 3, 4, 6)
    tokens = pack(z)
    assert tokens.shape == (2, 2 * 3, 12)
    for row, column, c, dy, dx in [(0, 0, 0, 0, 1), (1, 2, 2, 1, 0), (0, 2, 1, 1, 1)]:
        token = tokens[1, row * 3 + column]
        assert token[c * 4 + dy * 2 + dx] == z[1, c, 2 * row + dy, 2 * column + dx]


def test_unpack_undoes_pack() -> None:
    z = torch.randn(2, 5, 6, 10)
    assert torch.equal(unpack(pack(z), 3, 5), z)


def test_same_order_as_the_released_pipeline() -> None:
    z = torch.randn(1, 16, 6, 10)
    assert torch.equal(pack(z), QwenImagePipeline._pack_latents(z, 1, 16, 6, 10))
