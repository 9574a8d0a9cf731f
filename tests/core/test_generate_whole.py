"""A painter hands on to the autoencoder whether pictures have to be decoded whole, and draws no more than fits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from attrs import evolve
from torch import Tensor

from qi_core import Encoders, Latents, Place
from qi_core.testing import fakes


class Seams(fakes.Pixels):
    """Black where it saves memory."""

    def decode(self, latents: Latents, *, whole: bool = False) -> list[Tensor]:
        return [torch.ones_like(image) if whole else -torch.ones_like(image) for image in super().decode(latents)]


@pytest.mark.parametrize("whole", [False, True])
def test_whole_reaches_the_autoencoder(whole: bool, tmp_path: Path) -> None:
    painter = fakes.painter(Place(device=torch.device("cpu"), dtype=torch.float32, seed=0, folder=tmp_path))
    encoders = Encoders(autoencoder=Seams(), conditioner=painter.encoders.conditioner)
    pictures = evolve(painter, encoders=encoders).paint(["a"] * 3, [(2, 2)] * 3, batch=2, whole=whole)
    assert [image.mean().item() for image in pictures] == [1.0 if whole else -1.0] * 3


def test_large_pictures_are_drawn_a_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []

    class Counts(fakes.ThreeSteps):
        def sample(self, denoiser: Any, noise: Latents, *rest: Any, **more: Any) -> Latents:
            counts.append(len(noise.grids))
            return super().sample(denoiser, noise, *rest, **more)

    place = Place(device=torch.device("cpu"), dtype=torch.float32, seed=0, folder=tmp_path)
    painter = evolve(fakes.painter(place), sampler=Counts())
    sizes = [(2, 2)] * 3 + [(8, 8)] + [(2, 2)] * 2
    references = [[], [torch.zeros(3, 4, 4, dtype=torch.uint8)], [], [], [], []]
    at_once = painter.paint(["a"] * 6, sizes, references)
    monkeypatch.setattr("qi_core.generate.TOKENS", 2 * 4 + 16)
    pictures = painter.paint(["a"] * 6, sizes, references)
    assert counts == [6, 2, 1, 1, 2], "one that is too large alone is drawn alone"
    assert [image.shape for image in pictures] == [(3, *size) for size in sizes]
    for one, other in zip(pictures, at_once, strict=True):
        torch.testing.assert_close(one, other)
