"""A LoRA by itself, in the layouts that others read.

``peft``       adapter_config.json with rank, alpha and rsLoRA; base_model.model.X.lora_A.weight, .lora_B.weight.
``diffusers``  pytorch_lora_weights.safetensors; transformer.X.lora_A.weight, .lora_B.weight. A file without metadata
               means scale 1 there (``get_peft_kwargs``: alpha = rank), so the scale is worked into B: whoever reads
               the file, and whether or not he looks at metadata, gets the same change of the weights.
``comfyui``    one file; diffusion_model.X.lora_down.weight, .lora_up.weight and .alpha, with scale = alpha / rank.
               ComfyUI's comfy/lora.py (``model_lora_keys_unet``) finds Qwen-Image's layers under diffusion_model.X,
               transformer.X and lora_unet_X, but not under PEFT's base_model.model.X; comfy/weight_adapter/lora.py
               multiplies by alpha / rank. diffusers' Qwen-Image loader converts this layout too.

X is the module's name in the released weights, which qi's are. Velocities have the opposite sign in qi, but the flip
is outside the network, so no sign changes here.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from attrs import frozen
from torch import Tensor

from qi_core import QiError
from qi_core.files import write_whole
from qi_core.tensorfiles import forms, safetensors, write

if TYPE_CHECKING:
    from qi_plugins.adapter_lora.component import LoRA

PEFT_CONFIG, PEFT_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
DIFFUSERS_WEIGHTS = "pytorch_lora_weights.safetensors"
PEFT_PREFIX, DIFFUSERS_PREFIX, COMFYUI_PREFIX = "base_model.model.", "transformer.", "diffusion_model."

Layers: TypeAlias = Mapping[str, tuple[Tensor, Tensor]]
"""Module name -> A (R, I) and B (O, R)."""


@frozen
class Content:
    """What goes into an export."""

    file: str
    """Name of the weights' file in the folder; empty: the export is that file."""
    tensors: Mapping[str, Tensor]
    config: Mapping[str, Any] | None = None


def _peft(settings: LoRA, layers: Layers) -> Content:
    tensors = {f"{PEFT_PREFIX}{name}.{part}.weight": one for name, part, one in _parts(layers, "lora_A", "lora_B")}
    config: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": None,
        "inference_mode": True,
        "r": settings.rank,
        "lora_alpha": settings.rank if settings.alpha is None else settings.alpha,
        "use_rslora": settings.rslora,
        "use_dora": False,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "rank_pattern": {},
        "alpha_pattern": {},
        "modules_to_save": None,
        "target_modules": list(layers),
    }
    return Content(PEFT_WEIGHTS, tensors, config)


def _diffusers(settings: LoRA, layers: Layers) -> Content:
    if settings.scale != 1:
        layers = {name: (a, b.float() * settings.scale) for name, (a, b) in layers.items()}
    tensors = {f"{DIFFUSERS_PREFIX}{name}.{part}.weight": one for name, part, one in _parts(layers, "lora_A", "lora_B")}
    return Content(DIFFUSERS_WEIGHTS, tensors)


def _comfyui(settings: LoRA, layers: Layers) -> Content:
    tensors = {
        f"{COMFYUI_PREFIX}{name}.{part}.weight": one for name, part, one in _parts(layers, "lora_down", "lora_up")
    }
    alpha = torch.tensor(settings.scale * settings.rank)
    return Content("", tensors | {f"{COMFYUI_PREFIX}{name}.alpha": alpha for name in layers})


def _parts(layers: Layers, down: str, up: str) -> list[tuple[str, str, Tensor]]:
    return [(name, part, one) for name, both in layers.items() for part, one in zip((down, up), both, strict=True)]


LAYOUTS: Mapping[str, Callable[[LoRA, Layers], Content]] = {"peft": _peft, "diffusers": _diffusers, "comfyui": _comfyui}


def write_adapter(
    settings: LoRA, path: Path, tensors: Mapping[str, Tensor], layout: str, dtype: torch.dtype | None
) -> None:
    """Beside, then renamed. Raises QiError where the layout is not known or ``path`` is not what it makes."""
    if layout not in LAYOUTS:
        raise QiError(f"--adapter {layout}: no layout of LoRA is called so; there are {', '.join(LAYOUTS)}")
    names = [name.removesuffix(".lora_A") for name in tensors if name.endswith(".lora_A")]
    if not names:
        raise QiError("no LoRA is among these weights; use the recipe that the run was made with")
    layers = {name: (tensors[f"{name}.lora_A"], tensors[f"{name}.lora_B"]) for name in names}
    content = LAYOUTS[layout](settings, layers)
    if path.exists():
        raise QiError(f"{path}: is there already; choose another name")
    if (path.suffix == ".safetensors") == bool(content.file):
        wanted = "a folder: leave .safetensors out" if content.file else "one file: give it a name in .safetensors"
        raise QiError(f"{path}: the layout {layout} is {wanted}")
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.part")
    _remove(beside)
    try:
        if content.file:
            beside.mkdir()
            _write_tensors(beside / content.file, content.tensors, dtype)
            if content.config is not None:
                write_whole(beside / PEFT_CONFIG, (json.dumps(content.config, indent=2) + "\n").encode())
        else:
            _write_tensors(beside, content.tensors, dtype)
        beside.rename(path)
    finally:
        _remove(beside)


def _write_tensors(path: Path, tensors: Mapping[str, Tensor], dtype: torch.dtype | None) -> None:
    """``alpha`` stays float32: bfloat16 would round one like 22.6."""
    known = forms(tensors)
    for name, form in known.items():
        if dtype is not None and form.shape:
            known[name] = type(form)(dtype, form.shape)
    try:
        write(path, safetensors(tensors, known))
    except OSError as error:
        raise QiError(f"{path}: could not be written ({error.strerror}); make room, or choose another place") from error


def _remove(path: Path) -> None:
    """What an interrupted export left, or this one."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
