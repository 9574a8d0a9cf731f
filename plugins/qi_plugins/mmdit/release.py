"""Released pipelines: weights out of a diffusers folder and into one."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from attrs import asdict, evolve
from torch import Tensor

from qi_core import QiError
from qi_core.files import write_whole
from qi_core.flow import BASE_MU, BASE_TOKENS, MAX_MU, MAX_TOKENS, TERMINAL_SIGMA
from qi_core.release import read_json
from qi_core.tensorfiles import Form, forms, safetensors, shards, write
from qi_core.weights import NO_FLOAT16, refuse_mismatch
from qi_plugins.mmdit.architecture import Architecture
from qi_plugins.mmdit.weights import INDEX, diffusers_config, shapes

SHARD_BYTES = 10_000_000_000
SCHEDULER_CONFIG = Path("scheduler", "scheduler_config.json")

# scheduler_config.json of Qwen/Qwen-Image: diffusers' own defaults differ in four places.
SCHEDULER: Mapping[str, Any] = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "num_train_timesteps": 1000,
    "shift": 1.0,
    "use_dynamic_shifting": True,
    "base_shift": BASE_MU,
    "max_shift": MAX_MU,
    "base_image_seq_len": BASE_TOKENS,
    "max_image_seq_len": MAX_TOKENS,
    "shift_terminal": TERMINAL_SIGMA,
    "time_shift_type": "exponential",
    "invert_sigmas": False,
    "stochastic_sampling": False,
    "use_beta_sigmas": False,
    "use_exponential_sigmas": False,
    "use_karras_sigmas": False,
}
PIPELINE: Mapping[str, Any] = {
    "_class_name": "QwenImagePipeline",
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder": ["transformers", "Qwen2_5_VLForConditionalGeneration"],
    "tokenizer": ["transformers", "Qwen2Tokenizer"],
    "transformer": ["diffusers", "QwenImageTransformer2DModel"],
    "vae": ["diffusers", "AutoencoderKLQwenImage"],
}


def names_and_shapes(arch: Architecture) -> dict[str, tuple[int, ...]]:
    """Every weight of this architecture."""
    from qi_plugins.mmdit.network import MMDiTNetwork

    with torch.device("meta"):
        return shapes(MMDiTNetwork(arch))


def write_pipeline(
    pipeline: Path, arch: Architecture, tensors: Mapping[str, Tensor], dtype: torch.dtype | None
) -> None:
    """``transformer/``; ``scheduler/`` and ``model_index.json`` where no other part has brought them."""
    if dtype == torch.float16:
        raise QiError(f"--dtype fp16 is refused: {NO_FLOAT16}")
    known = forms(tensors)
    refuse_mismatch(
        names_and_shapes(arch),
        known,
        "the checkpoint",
        "it is of another architecture than the recipe beside it",
    )
    known = {name: Form(dtype or form.dtype, form.shape) for name, form in known.items()}
    folder = pipeline / "transformer"
    folder.mkdir(parents=True)
    home: dict[str, str] = {}
    for file, names in shards("diffusion_pytorch_model", known, SHARD_BYTES):
        part = {name: known[name] for name in names}
        try:
            write(folder / file, safetensors(tensors, part))
        except OSError as error:
            raise QiError(f"{folder / file}: could not be written ({error.strerror}); make room") from error
        home |= dict.fromkeys(names, file)
    if len(set(home.values())) > 1:
        total = sum(form.nbytes for form in known.values())
        _write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": home})
    _write_json(folder / "config.json", diffusers_config(arch))
    if not (pipeline / "scheduler").exists():
        (pipeline / "scheduler").mkdir()
        _write_json(pipeline / SCHEDULER_CONFIG, SCHEDULER)
    if not (pipeline / "model_index.json").exists():
        _write_json(pipeline / "model_index.json", PIPELINE)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    write_whole(path, (json.dumps(content, indent=2) + "\n").encode())


def tell_other_scheduler(pipeline: Path) -> None:
    """Warn where a pipeline was made to be sampled by other numbers than those of qi's shift "qwen-image"."""
    path = pipeline / SCHEDULER_CONFIG
    if not path.exists():
        return
    found = read_json(path, "the scheduler's settings")
    other = [
        f"{key} is {found[key]!r}, not {own!r}" for key, own in SCHEDULER.items() if key in found and found[key] != own
    ]
    if other:
        logging.getLogger("qi.denoiser").warning(
            '%s: %s; qi samples with the released Qwen-Image scheduler (shift = "qwen-image") all the same; '
            "an export keeps this file",
            path,
            "; ".join(other),
        )


def fixed(component: Any, arch: Architecture) -> Any:
    """A component whose every number is said, so that it needs no folder."""
    return evolve(component, size=None, weights=None, **asdict(arch))
