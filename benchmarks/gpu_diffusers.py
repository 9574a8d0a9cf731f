"""The same training step in diffusers' QwenImageTransformer2DModel, as its users write it. Part of gpu.py.

Same shapes of weights and the same pictures and captions; weights in float32 and bfloat16 autocast, as on our side; the
captions padded to the longest of the batch, with a mask; its attention as it comes (torch's); AdamW of torch, fused.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from card import CHANNELS, TEXT_WIDTH, fresh_memory, seconds
from diffusers import QwenImageTransformer2DModel
from gpu_steps import Batch, Step

from qi_plugins.mmdit.component import MMDiT

NAME = "diffusers"


def build(settings: MMDiT, device: torch.device) -> QwenImageTransformer2DModel:
    """Random weights, in float32."""
    arch = settings.architecture(CHANNELS, TEXT_WIDTH)
    with device:
        return QwenImageTransformer2DModel(
            in_channels=CHANNELS,
            out_channels=CHANNELS // 4,
            num_layers=arch.layers,
            attention_head_dim=arch.head_dim,
            num_attention_heads=arch.heads,
            joint_attention_dim=TEXT_WIDTH,
            axes_dims_rope=arch.axes_dims_rope,
        ).train()


class Learner:
    """A model with its optimizer."""

    def __init__(self, settings: MMDiT, device: torch.device) -> None:
        self.device = device
        self.model = build(settings, device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-5, fused=device.type == "cuda")

    def step(self, batch: Batch) -> None:
        """Noise, times, forward, loss, backward, clip, update."""
        data = torch.stack([one.tokens for one in batch.examples.latents.split()])
        texts = torch.split(batch.examples.condition.text, list(batch.examples.condition.lengths))
        longest = max(map(len, texts))
        padded = torch.stack([F.pad(text, (0, 0, 0, longest - len(text))) for text in texts])
        mask = (
            torch.arange(longest, device=self.device)
            < torch.tensor([len(t) for t in texts], device=self.device)[:, None]
        )
        noise = torch.randn_like(data)
        sigma = torch.sigmoid(torch.randn(len(data), device=self.device))
        noisy = (1 - sigma)[:, None, None] * data + sigma[:, None, None] * noise
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            out = self.model(
                hidden_states=noisy,
                encoder_hidden_states=padded,
                encoder_hidden_states_mask=mask,
                timestep=sigma,
                img_shapes=[[grid] for grid in batch.examples.latents.grids],
                return_dict=False,
            )[0]
        F.mse_loss(out.float(), noise - data).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def train(
    settings: MMDiT, device: torch.device, pixels: Sequence[int], tokens: int, rounds: int, peak: float
) -> Iterator[Step]:
    """Every size on one model, largest last. Operations are counted as on our side: padding earns nothing."""
    learner = Learner(settings, device)
    try:
        for size in sorted(pixels):
            batch = Batch.of(size, tokens, device)
            fresh_memory(device)
            took = seconds(lambda batch=batch: learner.step(batch), device, rounds)  # type: ignore[misc]
            learner.model.zero_grad(set_to_none=True)
            yield batch.row(NAME, settings, took, device, peak)
    finally:
        learner.__dict__.clear()
        gc.collect()
        fresh_memory(device)
