"""A LoRA that others wrote: its layout is found out by its names.

The scale of a layer is ``alpha / rank`` where the file has an ``alpha`` for it (kohya, ComfyUI), else what PEFT's
settings say (adapter_config.json, or the metadata that diffusers' training scripts put into the file), else 1.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from qi_core import QiError
from qi_core.release import read_json
from qi_core.tensorfiles import StoredTensors
from qi_plugins.adapter_lora.layers import SHOWN, Found, listed
from qi_plugins.adapter_lora.writing import (
    COMFYUI_PREFIX,
    DIFFUSERS_PREFIX,
    DIFFUSERS_WEIGHTS,
    PEFT_CONFIG,
    PEFT_PREFIX,
    PEFT_WEIGHTS,
)

KOHYA_PREFIX = "lora_unet_"
METADATA = "lora_adapter_metadata"
"""Where diffusers' files keep PEFT's settings, as JSON with keys such as ``transformer.lora_alpha``."""
PARTS = {"lora_A": "a", "lora_down": "a", "lora_B": "b", "lora_up": "b", "alpha": "alpha"}
KEY = re.compile(r"(?P<layer>.+)\.(?P<part>lora_A|lora_B|lora_down|lora_up|alpha)(\.default)?(\.weight)?")
OTHER_BASES = ("pissa", "olora", "corda", "loftq")
"""Starts of PEFT's that take something out of the base's weights: on the base as it was, such a LoRA is another change
(PEFT's documentation has its conversion to a plain one)."""
FLOATS = (torch.float32, torch.bfloat16, torch.float16)


def read(path: Path, shapes: Mapping[str, tuple[int, int]]) -> dict[str, Found]:
    """By module name, in float32.

    ``shapes``: (outputs, inputs) of the denoiser's linear layers. Raises QiError for whatever in the file is not
    understood or does not fit: nothing of it is passed over.
    """
    file, config = _located(path)
    tensors = StoredTensors([file])
    named = _named(shapes)
    layers: dict[str, dict[str, str]] = {}
    for key, form in tensors.forms.items():
        match = KEY.fullmatch(key)
        if match is None:
            raise QiError(f"{file}: {key!r} is no part of a LoRA; {_not_read(key)}")
        if match["layer"] not in named:
            raise QiError(
                f"{file}: it adapts {match['layer']!r}, which is no linear layer of this denoiser; "
                "want a LoRA of this architecture"
            )
        if form.dtype not in FLOATS:
            raise QiError(f"{file}: {key} is {form.dtype}; want float32, bfloat16 or float16; get the original file")
        parts = layers.setdefault(named[match["layer"]], {})
        if PARTS[match["part"]] in parts:
            raise QiError(f"{file}: {key} and {parts[PARTS[match['part']]]} say the same thing twice; want one LoRA")
        parts[PARTS[match["part"]]] = key
    if not layers:
        raise QiError(f"{file}: no tensors in it; want a LoRA")
    return {name: _found(file, tensors, name, parts, shapes[name], config) for name, parts in layers.items()}


def _named(shapes: Mapping[str, tuple[int, int]]) -> dict[str, str]:
    """Every name that a layer goes by -> its module's name."""
    named = {name: name for name in shapes}
    for name in shapes:
        for prefix in (PEFT_PREFIX, DIFFUSERS_PREFIX, COMFYUI_PREFIX):
            named[prefix + name] = name
        named[KOHYA_PREFIX + name.replace(".", "_")] = name
    return named


def _found(
    file: Path,
    tensors: StoredTensors,
    name: str,
    parts: Mapping[str, str],
    shape: tuple[int, int],
    config: Mapping[str, Any] | None,
) -> Found:
    for part in ("a", "b"):
        if part not in parts:
            raise QiError(f"{file}: {name} has only {', '.join(parts.values())}; want both of its matrices")
    a, b = (tensors.forms[parts[part]].shape for part in ("a", "b"))
    if not (len(a) == len(b) == 2 and a[0] == b[1] > 0 and (b[0], a[1]) == shape):
        raise QiError(
            f"{file}: {name} has matrices of {b} and {a}, but the layer maps {shape[1]} values to {shape[0]}; "
            "want a LoRA of this architecture"
        )
    if "alpha" in parts:
        scale = _alpha(file, parts["alpha"], tensors[parts["alpha"]]) / a[0]
    else:
        scale = 1.0 if config is None else _scale(config, a[0])
    a_RI, b_OR = (tensors[parts[part]].float() for part in ("a", "b"))
    if not bool(a_RI.isfinite().all() and b_OR.isfinite().all()):
        raise QiError(f"{file}: {name} holds values that are no numbers; get the file again, or an earlier one")
    return Found(a_RI=a_RI, b_OR=b_OR, scale=scale)


def _alpha(file: Path, key: str, alpha: Tensor) -> float:
    value = float(alpha) if alpha.numel() == 1 else math.nan
    if not (math.isfinite(value) and value > 0):
        raise QiError(f"{file}: {key} is {alpha.flatten()[:SHOWN].tolist()}; want one number above 0")
    return value


def _located(path: Path) -> tuple[Path, Mapping[str, Any] | None]:
    """The file of weights, and PEFT's settings if there are some."""
    file = path
    if path.is_dir():
        there = [path / name for name in (PEFT_WEIGHTS, DIFFUSERS_WEIGHTS) if (path / name).exists()]
        if len(there) != 1:
            raise QiError(f"{path}: want {PEFT_WEIGHTS} or {DIFFUSERS_WEIGHTS} in it, and one of them; name the file")
        file = there[0]
    elif not path.exists():
        raise QiError(f"{path}: not there; want the file or folder of a LoRA")
    if file.name == PEFT_WEIGHTS:
        beside = file.with_name(PEFT_CONFIG)
        return file, _checked(beside, read_json(beside, "PEFT's settings, which tell the scale of the weights"))
    StoredTensors([file])  # says what is wrong with a file that is none
    with safe_open(file, framework="pt") as opened:
        text = (opened.metadata() or {}).get(METADATA)
    if text is None:
        return file, None
    try:
        config = {key.removeprefix(DIFFUSERS_PREFIX): value for key, value in json.loads(text).items()}
    except (ValueError, AttributeError, RecursionError):  # RecursionError: [[[[...
        raise QiError(f"{file}: its metadata {METADATA} is no JSON object; get the file again") from None
    return file, _checked(file, config)


def _checked(where: Path, config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Raises QiError for settings that change what the matrices mean."""
    if config.get("peft_type", "LORA") != "LORA":
        raise QiError(f"{where}: peft_type is {config['peft_type']!r}; want LORA")
    plain = {"use_dora": False, "bias": "none", "lora_bias": False, "fan_in_fan_out": False, "modules_to_save": None}
    plain |= {"alpha_pattern": {}, "rank_pattern": {}}
    strange = [f"{key} is {config[key]!r}" for key, value in plain.items() if config.get(key) not in (value, None)]
    if str(config.get("init_lora_weights")).lower().startswith(OTHER_BASES):
        strange.append(f"init_lora_weights is {config['init_lora_weights']!r}")
    if strange:
        raise QiError(f"{where}: {', '.join(strange)}; that is not read here; want a plain LoRA of one rank and alpha")
    for key in ("r", "lora_alpha"):
        value = config.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise QiError(f"{where}: {key} is {value!r}; want a number above 0")
    return config


def _scale(config: Mapping[str, Any], rank: int) -> float:
    """As in PEFT: by the rank of the layer."""
    scale: float = config["lora_alpha"] / (math.sqrt(rank) if config.get("use_rslora") else rank)
    return scale


def _not_read(key: str) -> str:
    if "dora_scale" in key or "lora_magnitude_vector" in key:
        return "DoRA is not read (diffusers and ComfyUI keep it under other names); want a plain LoRA"
    if "lokr_" in key or "hada_" in key or "lora_mid" in key:
        return "LoKr, LoHa and convolutions are not read; want a plain LoRA of linear layers"
    return f"want names that end in {listed([f'.{part}' for part in PARTS])}"
