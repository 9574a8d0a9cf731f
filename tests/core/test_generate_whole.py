"""A painter hands on to the autoencoder whether pictures have to be decoded whole."""

from __future__ import annotations

from pathlib import Path

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
