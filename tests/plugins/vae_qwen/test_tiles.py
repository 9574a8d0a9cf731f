"""Tiles: exact where one is enough, blended without a step where there are several, and never in training."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from attrs import evolve
from torch import Tensor

from qi_core import Latents
from qi_plugins.vae_qwen.tiles import Tiling, decode_tiled, starts

TILES = {"tiling": True, "tile_size": 64, "tile_overlap": 32}


def smooth(rows: int, columns: int, width: int = 16) -> Latents:
    """Latents that change slowly over the picture."""
    at = torch.cartesian_prod(torch.arange(rows) / rows, torch.arange(columns) / columns)
    phase = torch.arange(width)
    return Latents(
        tokens=torch.sin(at[:, :1] * 2 + phase) + torch.cos(at[:, 1:] * 2 + phase), grids=((1, rows, columns),)
    )


@pytest.mark.parametrize("length", [5, 8, 9, 12, 31])
def test_tiles_cover_a_side_whole_and_overlap_enough(length: int) -> None:
    begins = starts(length, Tiling(size=8, overlap=4))
    assert begins[0] == 0
    assert begins[-1] == max(0, length - 8)
    assert all(0 < after - before <= 4 for before, after in pairwise(begins))


def test_a_picture_that_fits_in_a_tile_is_decoded_exactly(make: Any) -> None:
    _, tiled = make(TILES)
    _, whole = make()
    latents = smooth(4, 4)
    assert torch.equal(tiled.decode(latents)[0], whole.decode(latents)[0])


def test_weights_of_overlapping_tiles_add_up_to_one() -> None:
    z = torch.randn(2, 3, 21, 13)

    def big(tile: Tensor) -> Tensor:
        return tile.repeat_interleave(2, 2).repeat_interleave(2, 3)

    assert torch.allclose(decode_tiled(big, z, Tiling(size=8, overlap=4), 2), big(z), atol=1e-6)


def test_two_tiles_that_disagree_are_blended_without_a_step() -> None:
    values = iter([0.0, 1.0])
    blended = decode_tiled(
        lambda tile: torch.full((1, 1, 32, 32), next(values)), torch.zeros(1, 1, 8, 12), Tiling(size=8, overlap=4), 4
    )[0, 0, 0]
    assert blended[0] == 0
    assert blended[-1] == 1
    assert blended.diff().max() <= 1 / 16 + 1e-6  # the overlap is 16 pixels


def step_at_seams(got: Tensor, wanted: Tensor, tiling: Tiling) -> float:
    """Mean step of the error over the columns where a tile begins or ends, over its mean step anywhere."""
    columns = wanted.shape[2]
    edges = {8 * edge for start in starts(columns // 8, tiling) for edge in (start, start + tiling.size)} - {0, columns}
    steps = (got - wanted).diff(dim=2).abs().mean(dim=(0, 1))
    return (steps[[edge - 1 for edge in edges]].mean() / steps.mean()).item()


def test_seams_are_no_steeper_than_the_error_elsewhere(make: Any) -> None:
    _, whole = make()
    latents = smooth(4, 16)
    wanted = whole.decode(latents)[0]
    blended, cut = Tiling(size=8, overlap=4), Tiling(size=8, overlap=0)
    with_tiles = {tiling: evolve(whole, tiling=tiling).decode(latents)[0] for tiling in (blended, cut)}
    assert step_at_seams(with_tiles[blended], wanted, blended) <= 1
    assert step_at_seams(with_tiles[cut], wanted, cut) > 2  # so it is a measure of seams
    assert (with_tiles[blended] - wanted).abs().mean() <= 0.5 * wanted.std()


def test_training_is_never_tiled(make: Any) -> None:
    _, tiled = make(TILES)
    _, whole = make()
    latents = smooth(8, 10)
    image = torch.rand(3, 128, 160) * 2 - 1
    assert torch.equal(tiled.encode([image]).tokens, whole.encode([image]).tokens)
    asked = latents.with_tokens(latents.tokens.clone().requires_grad_())
    assert torch.equal(tiled.decode(asked)[0], whole.decode(latents)[0])
    tiled.network.decoder.requires_grad_(True)
    assert torch.equal(tiled.decode(latents)[0], whole.decode(latents)[0])


def test_what_is_scored_is_decoded_whole(make: Any) -> None:
    _, tiled = make(TILES)
    _, whole = make()
    latents = smooth(8, 10)
    wanted = whole.decode(latents)[0]
    assert not torch.equal(tiled.decode(latents)[0], wanted)
    assert torch.equal(tiled.decode(latents, whole=True)[0], wanted)
