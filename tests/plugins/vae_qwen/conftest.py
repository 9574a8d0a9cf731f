"""A small random checkpoint written by diffusers, and both sides that read it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from attrs import frozen
from diffusers import AutoencoderKLQwenImage

from qi_core import Place
from qi_plugins.vae_qwen.autoencoder import QwenVae
from qi_plugins.vae_qwen.component import VaeQwen
from qi_plugins.vae_qwen.packing import pack, unpack

SMALL: dict[str, Any] = {
    "base_dim": 8,
    "z_dim": 4,
    "dim_mult": [1, 2, 4, 4],
    "num_res_blocks": 1,
    "temperal_downsample": [False, True, True],
    "latents_mean": [-0.7, 0.3, 1.2, -0.1],
    "latents_std": [2.8, 0.4, 1.5, 3.2],
}


@frozen(kw_only=True, eq=False)
class Oracle:
    """What a pipeline of diffusers does with its autoencoder and the pictures around it."""

    model: AutoencoderKLQwenImage

    def _config(self, name: str) -> torch.Tensor:
        return torch.tensor(getattr(self.model.config, name))[:, None, None]

    def tokens(self, image: torch.Tensor) -> torch.Tensor:
        """(C, H, W) -> normalised tokens (N, D)."""
        z = self.model.encode(image[None, :, None]).latent_dist.mode()[:, :, 0]
        return pack((z - self._config("latents_mean")) / self._config("latents_std"))[0]

    def picture(self, tokens: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
        """Normalised tokens (N, D) -> (C, H, W)."""
        z = unpack(tokens[None], rows, columns)
        z = z / (1.0 / self._config("latents_std")) + self._config("latents_mean")
        return self.model.decode(z[:, :, None]).sample[0, :, 0]


Make = Callable[..., tuple[Oracle, QwenVae]]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(device=torch.device("cpu"), dtype=torch.float32, seed=0, folder=tmp_path)


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """Writes the checkpoint; keywords change the geometry."""

    def write(**changes: Any) -> Path:
        torch.manual_seed(0)
        model = AutoencoderKLQwenImage(**(SMALL | changes))
        with torch.no_grad():
            for parameter in model.parameters():  # gammas and biases too: a forgotten one must show
                parameter.add_(0.1 * torch.randn_like(parameter))
        target = tmp_path / "checkpoint" / "vae"
        model.save_pretrained(target)
        assert json.loads((target / "config.json").read_text())["_class_name"] == "AutoencoderKLQwenImage"
        return target

    return write


@pytest.fixture
def make(folder: Callable[..., Path], place: Place) -> Make:
    """The oracle and ours, of one checkpoint."""

    def both(settings: dict[str, Any] | None = None, **changes: Any) -> tuple[Oracle, QwenVae]:
        path = folder(**changes)
        model = AutoencoderKLQwenImage.from_pretrained(path).eval().requires_grad_(False)
        return Oracle(model=model), VaeQwen(path=path, **(settings or {})).build(place)

    return both
