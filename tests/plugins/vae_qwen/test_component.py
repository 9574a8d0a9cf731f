"""The settings, and the config.json of the checkpoint."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from attrs import evolve, fields, resolve_types
from diffusers import AutoencoderKLQwenImage

from qi_core import Place, QiError
from qi_plugins.vae_qwen import qi_autoencoders
from qi_plugins.vae_qwen.component import VaeQwen
from qi_plugins.vae_qwen.config import VaeConfig, read_config


def test_the_plugin_offers_it_by_name() -> None:
    assert qi_autoencoders() == {"vae-qwen": VaeQwen}
    assert {one.name for one in fields(resolve_types(VaeQwen))} >= {"path", "tiling", "tile_size", "tile_overlap"}


def test_naming_it_does_not_import_torch() -> None:
    code = "import sys; from qi_plugins.vae_qwen import qi_autoencoders as a; a(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_folder_above_is_taken_too(folder: Callable[..., Path], place: Place) -> None:
    source = folder()
    assert VaeQwen(path=source.parent).build(place).width == VaeQwen(path=source).build(place).width


def test_no_config_is_told(tmp_path: Path, place: Place) -> None:
    with pytest.raises(QiError, match=r"no config.json here nor in .*vae; wanted the vae/ folder"):
        VaeQwen(path=tmp_path / "nowhere").build(place)


def test_float16_is_refused_with_the_reason(folder: Callable[..., Path], place: Place) -> None:
    with pytest.raises(QiError, match=r"float16.*65504.*NaN or black pictures; use bfloat16 or float32"):
        VaeQwen(path=folder()).build(evolve(place, dtype=torch.float16))


@pytest.mark.parametrize(("size", "overlap"), [(1000, 256), (1024, 100)])
def test_tiles_must_fit_the_scale(folder: Callable[..., Path], place: Place, size: int, overlap: int) -> None:
    with pytest.raises(QiError, match="wanted a multiple of 16"):
        VaeQwen(path=folder(), tile_size=size, tile_overlap=overlap).build(place)


def test_an_overlap_of_more_than_half_a_tile_is_refused() -> None:
    with pytest.raises(ValueError, match="'tile_overlap' must be from 0 to half of tile_size"):
        VaeQwen(path=Path("vae"), tile_size=256, tile_overlap=144)


def written(tmp_path: Path, **settings: Any) -> Path:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(settings))
    return file


def test_defaults_are_the_released_geometry(tmp_path: Path) -> None:
    config = read_config(written(tmp_path, _class_name="AutoencoderKLQwenImage", _diffusers_version="0.36.0"))
    assert config == VaeConfig()
    with torch.device("meta"):
        theirs = AutoencoderKLQwenImage().config
    for one in fields(VaeConfig):
        value = getattr(config, one.name)
        assert theirs[one.name] == (list(value) if isinstance(value, tuple) else value), one.name


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"_class_name": "AutoencoderKLQwenImage21"}, "config of a AutoencoderKLQwenImage21; vae-qwen reads"),
        ({"torch_dtype": "float16"}, "torch_dtype = 'float16'; activations"),
        ({"patch_size": 2}, "unknown patch_size; this network has attn_scales, base_dim"),
        ({"base_dim": "96"}, "base_dim = '96'; wanted a whole number"),
        ({"dim_mult": [1, 2.5]}, r"dim_mult\[1\] = 2.5; wanted a whole number"),
        ({"temperal_downsample": [True]}, r"temperal_downsample = \(True,\); wanted 3"),
        ({"attn_scales": [0.5]}, r"attn_scales = \(0.5,\); wanted \[\]"),
        ({"input_channels": 1}, r"input_channels = 1; wanted 3 \(RGB\) or 4 \(RGBA\)"),
        ({"z_dim": 8}, "latents_mean = .*; wanted 8 numbers"),
        ({"latents_std": [0.0] * 16}, "latents_std = .*; wanted numbers above 0"),
    ],
)
def test_a_wrong_config_is_told(tmp_path: Path, settings: dict[str, Any], told: str) -> None:
    with pytest.raises(QiError, match=told):
        read_config(written(tmp_path, **settings))


@pytest.mark.parametrize("text", ["{", "[]"])
def test_an_unreadable_config_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(QiError, match=r"config\.json: "):
        read_config(tmp_path / "config.json")
