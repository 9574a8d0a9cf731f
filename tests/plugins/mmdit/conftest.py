"""The oracle: diffusers' own network, with random weights everywhere (zero gates would hide mistakes)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from attrs import frozen
from diffusers import QwenImageTransformer2DModel
from torch import Tensor

from qi_core import Condition, Grid, Latents, Place
from qi_plugins.mmdit.component import MMDiT
from qi_plugins.mmdit.network import MMDiTNetwork

WIDTH, TEXT = 16, 24
CONFIG: dict[str, Any] = {
    "in_channels": WIDTH,
    "out_channels": WIDTH // 4,
    "num_layers": 3,
    "attention_head_dim": 16,
    "num_attention_heads": 4,
    "joint_attention_dim": TEXT,
    "axes_dims_rope": [4, 6, 6],
}


@frozen(kw_only=True, eq=False)
class Case:
    """One sample."""

    target: Grid
    text: int
    references: tuple[Grid, ...] = ()
    sigma: float = 0.5

    @property
    def shapes(self) -> list[Grid]:
        return [self.target, *self.references]


@frozen(kw_only=True, eq=False)
class Inputs:
    """Random values for cases."""

    cases: tuple[Case, ...]
    targets: tuple[Tensor, ...]
    references: tuple[tuple[Tensor, ...], ...]
    texts: tuple[Tensor, ...]

    @staticmethod
    def of(*cases: Case, seed: int = 0) -> Inputs:
        generator = torch.Generator().manual_seed(seed)

        def tokens(grid: Grid) -> Tensor:
            return torch.randn(grid[0] * grid[1] * grid[2], WIDTH, generator=generator)

        return Inputs(
            cases=cases,
            targets=tuple(tokens(case.target) for case in cases),
            references=tuple(tuple(tokens(grid) for grid in case.references) for case in cases),
            texts=tuple(torch.randn(case.text, TEXT, generator=generator) for case in cases),
        )

    @property
    def t(self) -> Tensor:
        return torch.tensor([1 - case.sigma for case in self.cases])

    @property
    def latents(self) -> Latents:
        return Latents(tokens=torch.cat(self.targets), grids=tuple(case.target for case in self.cases))

    @property
    def condition(self) -> Condition:
        shown = [tokens for own in self.references for tokens in own]
        grids = tuple(grid for case in self.cases for grid in case.references)
        return Condition(
            text=torch.cat(self.texts),
            lengths=tuple(case.text for case in self.cases),
            references=Latents(tokens=torch.cat(shown), grids=grids) if shown else None,
            reference_counts=tuple(len(case.references) for case in self.cases) if shown else (),
        )

    def alone(self, i: int) -> Inputs:
        """Sample i."""
        return Inputs(
            cases=self.cases[i : i + 1],
            targets=self.targets[i : i + 1],
            references=self.references[i : i + 1],
            texts=self.texts[i : i + 1],
        )


def oracle_velocity(oracle: QwenImageTransformer2DModel, inputs: Inputs) -> Tensor:
    """diffusers, one sample at a time (it cannot mix sizes): -(noise - data), end to end."""
    parts = []
    for case, target, references, text in zip(
        inputs.cases, inputs.targets, inputs.references, inputs.texts, strict=True
    ):
        layered = oracle.config.use_layer3d_rope
        frames, rows, columns = case.target
        shapes = [(1, rows, columns)] * frames + list(case.references) if layered else case.shapes
        kinds = {"additional_t_cond": torch.tensor([0])} if oracle.config.use_additional_t_cond else {}
        out = oracle(
            hidden_states=torch.cat([target, *references])[None],
            encoder_hidden_states=text[None],
            timestep=torch.tensor([case.sigma]),
            img_shapes=[shapes],
            return_dict=False,
            **kinds,
        )[0]
        parts.append(-out[0, : len(target)])
    return torch.cat(parts)


def make_oracle(**changes: Any) -> QwenImageTransformer2DModel:
    torch.manual_seed(7)
    oracle = QwenImageTransformer2DModel(**(CONFIG | changes))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in oracle.named_parameters():
            if parameter.ndim == 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2 + ("norm" in name))
            else:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / parameter.shape[1] ** 0.5)
    return oracle


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(device=torch.device("cpu"), dtype=torch.float32, seed=3, folder=tmp_path)


Pair = tuple[QwenImageTransformer2DModel, MMDiTNetwork]


@pytest.fixture
def pair(tmp_path: Path, place: Place) -> Callable[..., Pair]:
    """diffusers' network, and ours that read its folder."""

    def make(settings: dict[str, Any] | None = None, **changes: Any) -> Pair:
        oracle = make_oracle(**changes)
        oracle.save_pretrained(tmp_path / "transformer")
        ours = MMDiT(weights=tmp_path / "transformer", **(settings or {})).build(place, WIDTH, TEXT)
        return oracle, ours

    return make


def worst(parts: Sequence[tuple[Tensor, Tensor]]) -> float:
    """Largest absolute difference."""
    return max(float((a - b).detach().abs().max()) for a, b in parts)
