"""Released weights: a diffusers ``transformer`` folder, read one tensor at a time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from qi_core import QiError
from qi_core.release import read_json
from qi_core.tensorfiles import StoredTensors
from qi_core.weights import refuse_mismatch, refuse_unusable
from qi_plugins.mmdit.architecture import Architecture

PATCH = 2
INDEX = "diffusion_pytorch_model.safetensors.index.json"
SINGLE = "diffusion_pytorch_model.safetensors"
KIND = "QwenImageTransformer2DModel"

# Keys of config.json with the values diffusers takes where one is absent.
DEFAULTS: dict[str, Any] = {
    "patch_size": PATCH,
    "in_channels": 64,
    "out_channels": 16,
    "num_layers": 60,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "joint_attention_dim": 3584,
    "axes_dims_rope": [16, 56, 56],
    "zero_cond_t": False,
    "use_additional_t_cond": False,
    "use_layer3d_rope": False,
}
# Keys that say nothing about this network: guidance_embeds is false in every release and was never used.
IGNORED = frozenset({"pooled_projection_dim"})


def read_config(folder: Path) -> Architecture:
    """The architecture that ``config.json`` tells. Raises QiError for a key or value that is not understood."""
    path = folder / "config.json"
    found = read_json(path, "the config.json of a diffusers transformer folder")
    if found.get("_class_name", KIND) != KIND:
        raise QiError(f"{path}: _class_name is {found['_class_name']!r}; want {KIND!r}; choose another denoiser")
    if found.get("guidance_embeds", False):
        raise QiError(
            f"{path}: guidance_embeds is true; no released Qwen-Image has a guidance embedding; not supported"
        )
    known = DEFAULTS.keys() | IGNORED | {"guidance_embeds"}
    unknown = sorted(
        key for key in found if key not in known and not key.startswith("_") and key != "quantization_config"
    )
    if unknown:
        raise QiError(
            f"{path}: unknown keys {', '.join(unknown)}; they may change what is computed; remove them if not"
        )
    if "quantization_config" in found:
        raise QiError(f"{path}: quantised weights; want the original bfloat16 or float32 ones")
    values = DEFAULTS | {key: value for key, value in found.items() if key in DEFAULTS}
    for key, value in values.items():
        _check_value(path, key, value)
    channels = values["out_channels"] or values["in_channels"]
    return Architecture(
        layers=values["num_layers"],
        heads=values["num_attention_heads"],
        head_dim=values["attention_head_dim"],
        axes_dims_rope=tuple(values["axes_dims_rope"]),
        in_channels=values["in_channels"],
        out_channels=values["patch_size"] ** 2 * channels,
        text_width=values["joint_attention_dim"],
        zero_cond_t=values["zero_cond_t"],
        use_additional_t_cond=values["use_additional_t_cond"],
        use_layer3d_rope=values["use_layer3d_rope"],
    )


def _check_value(path: Path, key: str, value: Any) -> None:
    if key == "axes_dims_rope":
        right, wanted = isinstance(value, list) and [type(item) for item in value] == [int] * 3, "three whole numbers"
    elif isinstance(DEFAULTS[key], bool):
        right, wanted = isinstance(value, bool), "true or false"
    else:
        right, wanted = type(value) is int and value > 0, "a whole number above 0"
        right = right or (key == "out_channels" and value is None)
    if not right:
        raise QiError(f"{path}: {key} is {value!r}; want {wanted}")


def _files(folder: Path) -> list[Path]:
    """The safetensors files of a folder, all that its index names."""
    index = folder / INDEX
    if index.exists():
        weight_map = read_json(index, "an index of shards").get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise QiError(f"{index}: no weight_map; want an index of shards; fetch the file again")
        return [folder / name for name in sorted(set(map(str, weight_map.values())))]
    if (folder / SINGLE).exists():
        return [folder / SINGLE]
    raise QiError(f"{folder}: neither {INDEX} nor {SINGLE}; want a diffusers transformer folder")


def shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every weight."""
    return {name: tuple(parameter.shape) for name, parameter in network.named_parameters()}


def read_weights(folder: Path, wanted: Mapping[str, tuple[int, ...]]) -> StoredTensors:
    """The folder's weights, found whole and usable by the files' headers alone; none is read yet.

    Raises QiError that names what is missing, extra, misshapen or of a dtype that cannot be used.
    """
    tensors = StoredTensors(_files(folder))
    refuse_mismatch(
        wanted, tensors.forms, str(folder), "config.json and weights must be of one model: fetch both again"
    )
    refuse_unusable(tensors.forms, str(folder))
    return tensors


def load_weights(network: nn.Module, folder: Path, device: torch.device) -> None:
    """Fill a network built on the meta device, in float32. Only one tensor is in memory twice at any time."""
    from qi_plugins.mmdit.network import replace

    tensors = read_weights(folder, shapes(network))
    for name in tensors:
        replace(network, name, tensors[name].to(device=device, dtype=torch.float32))


def diffusers_config(arch: Architecture) -> Mapping[str, Any]:
    """``config.json`` of these weights, for diffusers."""
    return {
        "_class_name": KIND,
        "patch_size": PATCH if arch.out_channels % PATCH**2 == 0 else 1,
        "in_channels": arch.in_channels,
        "out_channels": arch.out_channels // PATCH**2 if arch.out_channels % PATCH**2 == 0 else arch.out_channels,
        "num_layers": arch.layers,
        "attention_head_dim": arch.head_dim,
        "num_attention_heads": arch.heads,
        "joint_attention_dim": arch.text_width,
        "guidance_embeds": False,
        "axes_dims_rope": list(arch.axes_dims_rope),
        "zero_cond_t": arch.zero_cond_t,
        "use_additional_t_cond": arch.use_additional_t_cond,
        "use_layer3d_rope": arch.use_layer3d_rope,
    }
