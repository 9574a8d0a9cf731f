"""A tiny released network as diffusers has it, the same weights in qi's, and LoRAs that are not at their start."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from attrs import frozen
from diffusers import QwenImageTransformer2DModel
from torch import Tensor

from qi_core import Condition, DenoiserModule, Latents, Place
from qi_plugins.adapter_lora.component import LoRA
from qi_plugins.adapter_lora.layers import LiveLoRA
from qi_plugins.mmdit.component import MMDiT

WIDTH, TEXT = 16, 24
CONFIG: dict[str, Any] = {
    "in_channels": WIDTH,
    "out_channels": WIDTH // 4,
    "num_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": TEXT,
    "axes_dims_rope": [4, 6, 6],
}
EVERYTHING = ("*.attn.*", "*_mlp.*", "*_mod.*", "img_in", "txt_in", "proj_out")


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@frozen(kw_only=True, eq=False)
class Adapted:
    """A denoiser with a LoRA."""

    settings: LoRA
    model: DenoiserModule
    adapter: LiveLoRA

    def shake(self, seed: int = 5) -> Adapted:
        """As if it had been trained: B is not zero any more."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for layer in self.adapter.layers.values():
                layer.lora_B.normal_(0.0, 0.1, generator=generator)
        return self

    def tensors(self) -> dict[str, Tensor]:
        return dict(self.model.state_dict())

    def deltas(self) -> dict[str, Tensor]:
        """What each layer's matrix is changed by."""
        return {
            name: layer.scale * (layer.lora_B @ layer.lora_A).detach() for name, layer in self.adapter.layers.items()
        }


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(device=torch.device("cpu"), dtype=torch.float32, seed=3, folder=tmp_path)


@pytest.fixture(scope="session")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusers ``transformer`` folder, random everywhere (zero gates would hide a LoRA that does nothing)."""
    with torch.random.fork_rng():
        oracle = QwenImageTransformer2DModel(**CONFIG)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in oracle.named_parameters():
            spread = 0.2 if parameter.ndim == 1 else parameter.shape[1] ** -0.5
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * spread)
            if parameter.ndim == 1 and "norm" in name:
                parameter.add_(1.0)
    folder = tmp_path_factory.mktemp("released") / "transformer"
    oracle.save_pretrained(folder)
    return folder


@pytest.fixture
def theirs(released: Path) -> QwenImageTransformer2DModel:
    return QwenImageTransformer2DModel.from_pretrained(released)


@pytest.fixture
def plain(released: Path, place: Place) -> Callable[..., DenoiserModule]:
    """qi's network with the same weights."""

    def make(**settings: Any) -> DenoiserModule:
        return MMDiT(weights=released, **settings).build(place, WIDTH, TEXT)

    return make


@pytest.fixture
def adapt(plain: Callable[..., DenoiserModule], place: Place) -> Callable[..., Adapted]:
    def make(denoiser: dict[str, Any] | None = None, **settings: Any) -> Adapted:
        model, lora = plain(**(denoiser or {})), LoRA(**({"rank": 4} | settings))
        return Adapted(settings=lora, model=model, adapter=lora.apply(model, place))  # type: ignore[arg-type]

    return make


GRID, LETTERS, SIGMA = (1, 4, 6), 7, 0.3


def velocity(model: DenoiserModule, dtype: torch.dtype = torch.float32) -> Tensor:
    """One sample, with its graph."""
    latents = Latents(tokens=normal(24, WIDTH, seed=11).to(dtype), grids=(GRID,))
    condition = Condition(text=normal(LETTERS, TEXT, seed=12).to(dtype), lengths=(LETTERS,))
    return model.velocity(latents, torch.tensor([1 - SIGMA]), condition).tokens


@torch.no_grad()
def their_velocity(oracle: QwenImageTransformer2DModel) -> Tensor:
    """The same sample; diffusers says noise - data, which is -v."""
    out: Tensor = oracle(
        hidden_states=normal(24, WIDTH, seed=11)[None],
        encoder_hidden_states=normal(LETTERS, TEXT, seed=12)[None],
        timestep=torch.tensor([SIGMA]),
        img_shapes=[[GRID]],
        return_dict=False,
    )[0]
    return -out[0]


def worst(one: Tensor, other: Tensor) -> float:
    return float((one.detach() - other.detach()).abs().max())
