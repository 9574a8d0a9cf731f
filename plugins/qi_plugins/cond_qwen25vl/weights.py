"""Reading the two halves of a Qwen2.5-VL checkpoint, each without the other and both without the lm_head."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import AutoConfig, AutoTokenizer, Qwen2_5_VLConfig, Qwen2_5_VLTextModel
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel

from qi_core.errors import QiError
from qi_core.pretrained import in_one_line, no_progress_bar

# Released files say model.layers.* and visual.*; transformers 5 holds model.language_model.* and model.visual.*.
_LANGUAGE = {r"^model\.language_model\.": "", r"^language_model\.": "", r"^model\.(?!visual\.)": ""}
_VISION = {r"^model\.visual\.": "", r"^visual\.": ""}

AGAIN = "download the checkpoint again"


class _Language(Qwen2_5_VLTextModel):  # type: ignore[misc]
    _keys_to_ignore_on_load_unexpected: ClassVar = [r"^(model\.)?visual\.", r"^lm_head\."]


class _Vision(Qwen2_5_VisionTransformerPretrainedModel):  # type: ignore[misc]
    _keys_to_ignore_on_load_unexpected: ClassVar = [r"^(model|language_model)\.(?!visual\.)", r"^lm_head\."]


def read_config(folder: Path) -> Any:
    """The checkpoint's Qwen2_5_VLConfig."""
    with in_one_line(str(folder), "the config.json of a Qwen2.5-VL model", AGAIN):
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    if not isinstance(config, Qwen2_5_VLConfig):
        raise QiError(
            f"{folder / 'config.json'}: model_type is {config.model_type!r}; 'qwen2_5_vl' was wanted; "
            "this is not the text encoder of a Qwen-Image model"
        )
    return config


def read_tokenizer(folder: Path) -> Any:
    """The tokenizer."""
    with in_one_line(str(folder), "the tokenizer of Qwen2.5-VL", AGAIN):
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def read_language(folder: Path, config: Any, dtype: torch.dtype) -> Any:
    """The language model without its head: (B, L) ids -> (B, L, W) after the final norm."""
    return _read(_Language, folder, config.text_config, _LANGUAGE, dtype)


def read_vision(folder: Path, config: Any, dtype: torch.dtype) -> Any:
    """The vision tower: patches -> tokens of the language model's width."""
    return _read(_Vision, folder, config.vision_config, _VISION, dtype)


def identity(folder: Path, dtype: torch.dtype) -> bytes:
    """Names these weights: where they lie, their files' sizes and times, and what they are computed in."""
    files = [f"{f.name} {f.stat().st_size} {f.stat().st_mtime_ns}" for f in sorted(folder.glob("*.safetensors"))]
    return hashlib.blake2b("\n".join([str(folder.resolve()), str(dtype), *files]).encode(), digest_size=20).digest()


def _read(model: Any, folder: Path, config: Any, names: dict[str, str], dtype: torch.dtype) -> nn.Module:
    """Strictly: a checkpoint with a tensor missing, left over or misshapen would otherwise run on random weights."""
    with in_one_line(str(folder), "the safetensors weights of Qwen2.5-VL", AGAIN), no_progress_bar():
        network, found = model.from_pretrained(
            folder,
            config=config,
            key_mapping=names,
            dtype=dtype,
            local_files_only=True,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    wrong = {
        "missing": sorted(found["missing_keys"]),
        "left over": sorted(found["unexpected_keys"]),
        "misshapen": [
            f"{name} (file {tuple(file)}, config {tuple(own)})" for name, file, own in found["mismatched_keys"]
        ],
    }
    told = [f"{len(names)} {what}, such as {names[0]}" for what, names in wrong.items() if names]
    if told:
        raise QiError(
            f"{folder}: tensors {'; '.join(told)}; the weights that config.json describes were wanted; "
            "download the text encoder again"
        )
    assert isinstance(network, nn.Module)
    return network.eval().requires_grad_(False)
