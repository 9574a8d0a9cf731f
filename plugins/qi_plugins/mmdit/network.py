"""The network: MMDiT on packed sequences, with the names, shapes and numbers of the released weights.

Shapes: B samples, L text tokens, N image tokens with references, M target tokens, D width, C values of a token.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from attrs import evolve
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from qi_core import Condition, DenoiserModule, Latents, QiError, Sharding
from qi_core.denoiser import Stretches
from qi_plugins.mmdit.again import selective
from qi_plugins.mmdit.architecture import Architecture, Predicts
from qi_plugins.mmdit.attention import Backend
from qi_plugins.mmdit.blocks import Block, NormOut, RMSNorm, TimeEmbed, first
from qi_plugins.mmdit.layout import Layout, Shapes, make_layout
from qi_plugins.mmdit.rope import Kept, Rope

Checkpointing: TypeAlias = Literal["none", "selective", "all"] | int

# v = (x0_hat - x_t) / (1 - t) grows without bound toward t = 1; from here on it is held.
SMALLEST_NOISE = 0.05
# Layouts kept: with captions of any length few come again, but a sampler asks for its one at every step.
KEPT_BYTES = 64 << 20


class MMDiTNetwork(DenoiserModule):
    """Qwen-Image's transformer."""

    def __init__(
        self,
        arch: Architecture,
        *,
        predicts: Predicts = "velocity",
        checkpointing: Checkpointing = "none",
        backend: Backend = "auto",
    ) -> None:
        super().__init__()
        self.arch = arch
        self.predicts = predicts
        self.selective = checkpointing == "selective"
        self.every = checkpointing if isinstance(checkpointing, int) else int(checkpointing == "all")
        self.backend = backend
        width = arch.width
        self.img_in = nn.Linear(arch.in_channels, width)
        self.txt_norm = RMSNorm(arch.text_width)
        self.txt_in = nn.Linear(arch.text_width, width)
        self.time_text_embed = TimeEmbed(width, additional=arch.use_additional_t_cond)
        last = arch.layers - 1
        self.transformer_blocks = nn.ModuleList([Block(arch, last=i == last) for i in range(arch.layers)])
        self.norm_out = NormOut(width)
        self.proj_out = nn.Linear(width, arch.out_channels)
        # Where tokens part and meet, if a strategy divides them: see ``Sharding.stretches``.
        self.part, self.meet = nn.Identity(), nn.Identity()
        self._stretch = (0, 1)
        self._rope = Rope(arch.axes_dims_rope)
        self._layouts = _none_kept()

    def velocity(self, latents: Latents, t: Tensor, condition: Condition) -> Latents:
        """v at (x_t, t), in the dtype of ``latents`` whatever the network computes in; see ``qi_core.Denoiser``."""
        # The one place where the two conventions meet: the network is told sigma = 1 - t and gives noise - data = -v.
        out = self._predict(latents, 1 - t.float(), condition).to(latents.tokens.dtype)
        if self.predicts == "velocity":
            return latents.with_tokens(-out)
        noise = latents.per_token((1 - t).clamp(min=SMALLEST_NOISE).to(out.dtype))
        return latents.with_tokens((out - latents.tokens) / noise)

    def _predict(self, latents: Latents, sigma_B: Tensor, condition: Condition) -> Tensor:
        """(M, C) what the network says of each target token."""
        self._check(latents, sigma_B, condition)
        layout = self._layout(latents, condition)
        dtype = self.img_in.weight.dtype
        tokens_NC = latents.tokens.to(dtype)
        if layout.gather is not None:
            assert condition.references is not None
            tokens_NC = torch.cat([tokens_NC, condition.references.tokens.to(dtype)]).index_select(0, layout.gather)
        img_ND = self.img_in(tokens_NC)
        txt_LD = self.txt_in(self.txt_norm(condition.text.to(dtype)))
        clean = torch.zeros_like(sigma_B) if self.arch.zero_cond_t else sigma_B[:0]
        temb_KD = self.time_text_embed(torch.cat([sigma_B, clean]))
        whole, layout, last = layout, layout.stretched or layout, len(self.transformer_blocks) - 1
        img_ND, txt_LD = self.part(img_ND), self.part(txt_LD)
        for index, block in enumerate(self.transformer_blocks):
            if index == last:  # where the text ends and targets leave references behind, all tokens are needed
                layout = whole
                img_ND = first(self.meet(img_ND), sum(whole.image_lengths))
                txt_LD = first(self.meet(txt_LD), sum(whole.text_lengths))
            if self.every and index % self.every == 0 and torch.is_grad_enabled():
                img_ND, txt_LD = checkpoint(block, img_ND, txt_LD, temb_KD, layout, use_reentrant=False)
            elif self.selective and torch.is_grad_enabled():
                with selective():
                    img_ND, txt_LD = block(img_ND, txt_LD, temb_KD, layout)
            else:
                img_ND, txt_LD = block(img_ND, txt_LD, temb_KD, layout)
        out: Tensor = self.proj_out(self.norm_out(img_ND, temb_KD[: len(sigma_B)], layout.target))
        return out

    def _layout(self, latents: Latents, condition: Condition) -> Layout:
        shapes = Shapes.of(latents, condition, layered=self.arch.use_layer3d_rope, backend=self.backend)
        return self._layouts.get(shapes, lambda: self._made(shapes))

    def _made(self, shapes: Shapes) -> Layout:
        layout, (part, parts) = make_layout(shapes, self._rope), self._stretch
        return layout if parts == 1 else evolve(layout, stretched=layout.stretch(part, parts))

    def stretch(self, part: int, parts: int) -> None:
        """See ``qi_core.denoiser.Stretched``."""
        self._stretch, self._layouts = (part, parts), _none_kept()

    def _check(self, latents: Latents, t: Tensor, condition: Condition) -> None:
        samples = len(latents)
        if not samples == len(condition) == len(t) == len(condition.counts):
            raise QiError(
                f"mmdit: {samples} pictures, {len(t)} times, {len(condition)} texts and {len(condition.counts)} "
                "reference counts in one batch; give one of each a sample"
            )
        if 0 in condition.lengths:
            raise QiError(
                f"mmdit: sample {condition.lengths.index(0)} of the batch has no text tokens; one at least is wanted; "
                "choose a conditioner that gives one for the empty prompt"
            )
        shown = 0 if condition.references is None else len(condition.references)
        if shown != sum(condition.counts):
            raise QiError(
                f"mmdit: {shown} reference pictures, but reference_counts says {sum(condition.counts)}; they must agree"
            )

    def sharding(self) -> Sharding:
        """Attention by whole heads, MLPs by hidden features; modulation by columns, since it is a third of all weights
        and its outputs (6D a sample) are small. Norms of heads see their rank's heads alone; embeddings of tokens and
        the outer layers are replicated."""
        block = "transformer_blocks.*"
        heads = [f"{block}.attn.{p}" for p in ("to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj")]
        columns = [f"{block}.{p}" for p in ("img_mlp.net.0.proj", "txt_mlp.net.0.proj")]
        gathered = [f"{block}.{p}" for p in ("img_mod.1", "txt_mod.1")]
        norms = [f"{block}.attn.{p}" for p in ("norm_q", "norm_k", "norm_added_q", "norm_added_k")]
        rows = [f"{block}.{p}" for p in ("attn.to_out.0", "attn.to_add_out", "img_mlp.net.2", "txt_mlp.net.2")]
        return Sharding(
            weights={
                **{f"{name}.{part}": "heads" for name in heads for part in ("weight", "bias")},
                **{f"{name}.{part}": "columns" for name in columns for part in ("weight", "bias")},
                **{f"{name}.{part}": "gathered" for name in gathered for part in ("weight", "bias")},
                **{f"{name}.weight": "rows" for name in rows},  # their biases are added once, after the sum
                **{f"{name}.weight": "partial" for name in norms},
            },
            entries=tuple(f"{block}.{p}.enter" for p in ("attn", "img_mlp", "txt_mlp")),
            heads=self.arch.heads,
            attentions=(f"{block}.attn.core",) if self.backend == "auto" else (),
            stretches=Stretches(
                begin="part",
                end="meet",
                blocks=tuple(f"transformer_blocks.{i}" for i in range(self.arch.layers - 1)),
            ),
            blocks="transformer_blocks",
        )


def _none_kept() -> Kept[Shapes, Layout]:
    return Kept(KEPT_BYTES, lambda layout: layout.nbytes)


def initialise(network: MMDiTNetwork, seed: int, device: torch.device) -> None:
    """Weights to train from, the same for one seed on every device; the global generators are not touched.

    Linears: Xavier uniform, biases zero. Modulation, the last norm's and the output projection: zero, so that every
    block begins as the identity (Peebles and Xie 2023, arXiv 2212.09748, adaLN-Zero).
    """
    generator = torch.Generator().manual_seed(seed)
    zero = ("img_mod.1.", "txt_mod.1.", "norm_out.", "proj_out.")
    for name, parameter in network.named_parameters():
        weight = torch.empty(parameter.shape)
        if "norm" in name and name.endswith("weight") and weight.ndim == 1:
            weight.fill_(1.0)
        elif name.endswith("bias") or any(part in name for part in zero):
            weight.zero_()
        elif name.startswith("time_text_embed."):
            weight.normal_(0.0, 0.02, generator=generator)
        else:
            nn.init.xavier_uniform_(weight, generator=generator)
        replace(network, name, weight.to(device))


def replace(network: nn.Module, name: str, tensor: Tensor) -> None:
    """Put a tensor in a parameter's place (it may be on the meta device)."""
    owner, _, leaf = name.rpartition(".")
    module = network.get_submodule(owner)
    old = module.get_parameter(leaf)
    setattr(module, leaf, nn.Parameter(tensor, requires_grad=old.requires_grad))
