"""Filters of what the eye sees: each refuses what it should, by its own name, and keeps the rest."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from attrs import evolve

from qi_core import Filter, Origin, Place, Sample
from qi_core.testing import check_component, check_filter
from qi_plugins.filter_picture import qi_filters
from qi_plugins.filter_picture.pixels import Blur, Clarity, Entropy, Luma, Mosaic, Saturation, Texture
from qi_plugins.filter_picture.stored import Aspect, FileSize, Resolution, Rotation

PLAIN = Sample(key="plain", prompt="", image=torch.full((3, 96, 96), 128, dtype=torch.uint8))
NOISE = evolve(
    PLAIN,
    key="noise",
    image=torch.randint(0, 256, (3, 96, 96), generator=torch.Generator().manual_seed(0), dtype=torch.uint8),
)
TILES = evolve(PLAIN, key="tiles", image=NOISE.image[:, :12, :12].repeat_interleave(8, 1).repeat_interleave(8, 2))
SOFT = evolve(
    PLAIN,
    key="soft",
    image=(128 + 100 * torch.sin(torch.arange(96) / 20)).to(torch.uint8).expand(3, 96, 96).contiguous(),
)
RED = evolve(PLAIN, key="red", image=torch.tensor([200, 10, 10], dtype=torch.uint8)[:, None, None].expand(3, 96, 96))
BLACK, WHITE = (evolve(PLAIN, image=torch.full((3, 96, 96), value, dtype=torch.uint8)) for value in (4, 251))
STORED = evolve(PLAIN, key="stored", origin=Origin(height=200, width=800, bytes=5000, turned=True))


def verdict(component: Any, sample: Sample, place: Place) -> str:
    live: Filter = component.build(place)
    return live.refuses(live.measure(sample))


@pytest.fixture
def place(tmp_path: Any) -> Place:
    return Place(device=torch.device("cpu"), dtype=torch.float32, seed=0, folder=tmp_path)


@pytest.mark.parametrize("component", qi_filters().values(), ids=qi_filters())
def test_contracts(component: type[Any]) -> None:
    check_component(component)
    check_filter(component())


@pytest.mark.parametrize(
    ("component", "kept", "refused", "reason"),
    [
        (FileSize(least=5001), PLAIN, STORED, "file too small"),
        (FileSize(most=4999), PLAIN, STORED, "file too large"),
        (FileSize(least=5000, most=5000), STORED, None, ""),
        (Resolution(least=96), PLAIN, evolve(STORED, origin=Origin(height=9, width=9, bytes=1)), "resolution too low"),
        (Resolution(most=399), PLAIN, STORED, "resolution too high"),
        (Resolution(least=96, of="shorter side"), STORED, None, ""),
        (Resolution(least=201, of="shorter side"), NOISE, None, "resolution too low"),
        (Aspect(most=3.9), PLAIN, STORED, "too long a strip"),
        (Rotation(), PLAIN, STORED, "turned by EXIF"),
        (Rotation(most=1), STORED, None, ""),
        (Clarity(least=100), NOISE, SOFT, "not clear"),
        (Clarity(most=1000), SOFT, NOISE, "too much grain"),
        (Luma(least=0.1), PLAIN, BLACK, "too dark"),
        (Luma(most=0.9), PLAIN, WHITE, "too bright"),
        (Saturation(least=0.2), RED, PLAIN, "too pale"),
        (Saturation(most=0.9), PLAIN, RED, "too colourful"),
        (Entropy(least=4), NOISE, RED, "not detailed"),
        (Texture(most=0.5), SOFT, NOISE, "all texture"),
        (Texture(least=0.01), NOISE, SOFT, "no texture"),
        (Mosaic(most=0.1), NOISE, TILES, "mosaic"),
        (Blur(most=0.6), NOISE, SOFT, "blurred"),
    ],
    ids=lambda value: type(value).__name__ if hasattr(value, "build") else "",
)
def test_what_is_refused(component: Any, kept: Sample, refused: Sample | None, reason: str, place: Place) -> None:
    if refused is None:
        assert verdict(component, kept, place) == reason
        return
    assert verdict(component, kept, place) == ""
    assert verdict(component, refused, place) == reason


def test_without_a_threshold_nothing_is_refused(place: Place) -> None:
    for component in qi_filters().values():
        if component is not Rotation:
            for sample in (PLAIN, NOISE, TILES, SOFT, RED, BLACK, WHITE, STORED):
                assert verdict(component(), sample, place) == ""


def test_thresholds_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="wanted least <= most"):
        Luma(least=0.5, most=0.4)
    with pytest.raises(ValueError, match="wanted least <= most"):
        Resolution(least=512, most=256)
    with pytest.raises(ValueError, match="most"):
        Mosaic(most=1.5)
