"""A whole tiny random Qwen-Image checkpoint in diffusers' layout, with the released scheduler's numbers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from support.tiny_qwen import PREPROCESSOR, WIDTH, make_model, make_tokenizer

SCHEDULER = {
    "num_train_timesteps": 1000,
    "shift": 1.0,
    "use_dynamic_shifting": True,
    "base_shift": 0.5,
    "max_shift": 0.9,
    "base_image_seq_len": 256,
    "max_image_seq_len": 8192,
    "shift_terminal": 0.02,
    "time_shift_type": "exponential",
    "invert_sigmas": False,
    "stochastic_sampling": False,
    "use_beta_sigmas": False,
    "use_exponential_sigmas": False,
    "use_karras_sigmas": False,
}
"""``scheduler/scheduler_config.json`` as released; diffusers' defaults differ."""
TRANSFORMER = {
    "patch_size": 2,
    "in_channels": 64,
    "out_channels": 16,
    "num_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": WIDTH,
    "guidance_embeds": False,
    "axes_dims_rope": (4, 6, 6),
}
"""About 0.1 million parameters; latents of 16 channels in patches of 2x2, as released."""
VAE = {"base_dim": 8, "z_dim": 16, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 1}
"""8 pixels a latent pixel and the released latent mean and deviation."""


def make_pipeline(
    folder: Path, *, seed: int = 0, shards: str | None = None, vae: dict[str, Any] | None = None, **transformer: Any
) -> Path:
    """Write a QwenImagePipeline of random float32 weights into ``folder``, and a processor/ for editing; the folder.

    ``shards``: "150KB" cuts the transformer into files of that size with an index. ``vae`` and ``transformer``
    (``num_layers=3``, ``zero_cond_t=True``) change the configs of those two.
    """
    import torch
    from diffusers import (
        AutoencoderKLQwenImage,
        FlowMatchEulerDiscreteScheduler,
        QwenImagePipeline,
        QwenImageTransformer2DModel,
    )

    tokenizer = make_tokenizer()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        denoiser = QwenImageTransformer2DModel(**{**TRANSFORMER, **transformer})
        autoencoder = AutoencoderKLQwenImage(**{**VAE, **(vae or {})})
        for name, parameter in denoiser.named_parameters():
            # Random everywhere: gates and biases that start at nothing would hide mistakes behind them.
            torch.nn.init.normal_(parameter.data, std=0.15)
            if parameter.dim() == 1 and "norm" in name and name.endswith(".weight"):
                parameter.data += 1
    pipeline = QwenImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(**SCHEDULER),
        vae=autoencoder,
        text_encoder=make_model(tokenizer, seed=seed),
        tokenizer=tokenizer,
        transformer=denoiser,
    )
    pipeline.save_pretrained(folder)
    if shards is not None:
        shutil.rmtree(folder / "transformer")
        denoiser.save_pretrained(folder / "transformer", max_shard_size=shards)
    tokenizer.save_pretrained(folder / "processor")
    (folder / "processor" / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR, indent=2))
    return folder
