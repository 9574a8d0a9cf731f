"""The parts of the network, with the released weights' names.

Shapes: B samples, K rows of modulation (B, or 2B with clean rows for references), L text tokens, N image tokens, M
target tokens, D width, H heads, E channels of a head, C features of a text token.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qi_plugins.mmdit.again import again
from qi_plugins.mmdit.architecture import Architecture
from qi_plugins.mmdit.attention import Attention
from qi_plugins.mmdit.layout import Layout
from qi_plugins.mmdit.qknorm import norm_rotate
from qi_plugins.mmdit.runs import EPS, Runs

SINUSOID = 256


def first(x_ND: Tensor, tokens: int) -> Tensor:
    """So many tokens: where ranks share them equally, there may be a few more."""
    return x_ND if len(x_ND) == tokens else x_ND[:tokens]


class RMSNorm(nn.Module):
    """x / rms(x) * weight, the mean square in float32."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), EPS)


class HeadNorm(RMSNorm):
    """The same for each head's channels, then their rotation."""

    def forward(self, x_SHE: Tensor, turns_S1P: Tensor) -> Tensor:  # type: ignore[override]
        return norm_rotate(x_SHE, self.weight, turns_S1P)


class GELU(nn.Module):
    """Linear, then GELU in its tanh form (not the sigmoid form that some ports use)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        return again(_gelu, self.proj(x))


def _gelu(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


class MLP(nn.Module):
    """Linear, GELU, linear. The identity holds the place of a dropout in the names."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.enter = nn.Identity()
        self.net = nn.Sequential(GELU(width, hidden), nn.Identity(), nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(self.enter(x))
        return out


class TimestepEmbedder(nn.Module):
    """Sinusoid -> D."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(SINUSOID, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, sigma_K: Tensor) -> Tensor:
        half = SINUSOID // 2
        # float32 throughout, and in this order: angles reach 1000, where rounding shows.
        steps = torch.arange(half, dtype=torch.float32, device=sigma_K.device)
        frequencies = torch.exp(-math.log(10000) * steps / half)
        angles = 1000 * (sigma_K.float()[:, None] * frequencies)
        sinusoid = torch.cat([angles.cos(), angles.sin()], dim=-1).to(self.linear_1.weight.dtype)
        out: Tensor = self.linear_2(F.silu(self.linear_1(sinusoid)))
        return out


class TimeEmbed(nn.Module):
    """What modulates every block: the time, and in the Layered model the kind of picture (0: RGB)."""

    def __init__(self, width: int, *, additional: bool) -> None:
        super().__init__()
        self.timestep_embedder = TimestepEmbedder(width)
        self.addition_t_embedding = nn.Embedding(2, width) if additional else None

    def forward(self, sigma_K: Tensor) -> Tensor:
        out: Tensor = self.timestep_embedder(sigma_K)
        if self.addition_t_embedding is not None:
            kind = torch.zeros(len(sigma_K), dtype=torch.long, device=sigma_K.device)
            out = out + self.addition_t_embedding(kind).to(out.dtype)
        return out


class JointAttention(nn.Module):
    """Projections of both streams; they meet in one attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.head_dim = width // heads
        self.enter = nn.Identity()  # where tensor parallelism begins: see ``Sharding.entries``
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width) for _ in range(3))
        self.add_q_proj, self.add_k_proj, self.add_v_proj = (nn.Linear(width, width) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(width, width)])
        self.to_add_out = nn.Linear(width, width)
        self.norm_q, self.norm_k = HeadNorm(self.head_dim), HeadNorm(self.head_dim)
        self.norm_added_q, self.norm_added_k = HeadNorm(self.head_dim), HeadNorm(self.head_dim)
        self.core = Attention()

    def _heads(self, x: Tensor) -> Tensor:
        """As many heads as this rank has of them."""
        return x.view(len(x), -1, self.head_dim)

    def forward(self, img_ND: Tensor, txt_LD: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        """Both streams -> both streams."""
        img_ND = first(self.enter(img_ND), sum(layout.image_lengths))
        txt_LD = first(self.enter(txt_LD), sum(layout.text_lengths))
        txt_q, img_q = self._heads(self.add_q_proj(txt_LD)), self._heads(self.to_q(img_ND))
        q = self._normed(self.norm_added_q, txt_q, self.norm_q, img_q, layout)
        k, v = self._keys(img_ND, txt_LD, layout)
        out = self.core(q, k, v, layout.joint)
        txt, img = again(layout.part, out) if layout.woven else layout.part(out)
        return self.to_out[0](img), self.to_add_out(txt)

    def last(self, img_ND: Tensor, txt_LD: Tensor, layout: Layout) -> Tensor:
        """Both streams -> the targets, which are all that is used after the last block."""
        img_ND, txt_LD = self.enter(img_ND), self.enter(txt_LD)
        asking_MD = img_ND if layout.targets is None else img_ND.index_select(0, layout.targets)
        asked = self._heads(self.to_q(asking_MD))
        q = again(lambda x: self.norm_q(x, layout.target_turns), asked, modules=(self.norm_q,))
        k, v = self._keys(img_ND, txt_LD, layout)
        out: Tensor = self.to_out[0](self.core(q, k, v, layout.final))
        return out

    def _keys(self, img_ND: Tensor, txt_LD: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        txt_k, img_k = self._heads(self.add_k_proj(txt_LD)), self._heads(self.to_k(img_ND))
        k = self._normed(self.norm_added_k, txt_k, self.norm_k, img_k, layout)
        return k, self._heads(layout.join(self.add_v_proj(txt_LD), self.to_v(img_ND)))

    def _normed(self, txt_norm: HeadNorm, txt: Tensor, img_norm: HeadNorm, img: Tensor, layout: Layout) -> Tensor:
        """Heads of both streams, normed and turned, as joint rows."""

        def work(txt: Tensor, img: Tensor) -> Tensor:
            return layout.join(txt_norm(txt, layout.text_turns), img_norm(img, layout.image_turns))

        return again(work, txt, img, modules=(txt_norm, img_norm))


class Block(nn.Module):
    """One double-stream block. In the last one the text's output is used by nobody: its work is skipped and the weights
    that it alone needs are frozen (kept for the checkpoint's sake, 0.65 % of the released model)."""

    def __init__(self, arch: Architecture, *, last: bool) -> None:
        super().__init__()
        width, hidden = arch.width, arch.width * arch.mlp_ratio
        self.is_last = last
        self.zero_cond_t = arch.zero_cond_t
        self.img_mod = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        self.txt_mod = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        self.attn = JointAttention(width, arch.heads)
        self.img_mlp = MLP(width, hidden)
        self.txt_mlp = MLP(width, hidden)
        if last:
            for dead in (self.attn.to_add_out, self.attn.add_q_proj, self.attn.norm_added_q, self.txt_mlp):
                dead.requires_grad_(False)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile the parts that see nothing of a batch but its number of tokens: norms of heads with their rotation,
        and MLPs. The rest goes by the lengths of its samples: every batch of captions would compile it anew."""
        attn = self.attn
        norms = (attn.norm_q, attn.norm_k, attn.norm_added_q, attn.norm_added_k)
        for part in (*norms, self.img_mlp, self.txt_mlp):
            part.compile(*args, **kwargs)

    def forward(self, img_ND: Tensor, txt_LD: Tensor, temb_KD: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        """``temb_KD``: time embeddings; with zero_cond_t the second half of its rows is that of clean pictures."""
        samples = len(temb_KD) // 2 if self.zero_cond_t else len(temb_KD)
        image, text = layout.image_times if self.zero_cond_t else layout.image, layout.text
        img_mod, txt_mod = self.img_mod(temb_KD), text.take(self.txt_mod(temb_KD[:samples]))
        i_shift1, i_scale1, i_gate1, i_shift2, i_scale2, i_gate2 = image.take(img_mod).chunk(6, dim=-1)
        t_shift1, t_scale1, t_gate1, t_shift2, t_scale2, t_gate2 = txt_mod.chunk(6, dim=-1)
        img = image.modulate(img_ND, i_shift1, i_scale1)
        txt = text.modulate(txt_LD, t_shift1, t_scale1)
        if self.is_last:
            return self._targets(img_ND, self.attn.last(img, txt, layout), img_mod[:samples], layout), txt_LD
        img, txt = self.attn(img, txt, layout)
        img_ND = image.gate(img_ND, i_gate1, img)
        txt_LD = text.gate(txt_LD, t_gate1, txt)
        img_ND = image.gate(img_ND, i_gate2, self.img_mlp(image.modulate(img_ND, i_shift2, i_scale2)))
        txt_LD = text.gate(txt_LD, t_gate2, self.txt_mlp(text.modulate(txt_LD, t_shift2, t_scale2)))
        return img_ND, txt_LD

    def _targets(self, img_ND: Tensor, attended_MD: Tensor, mod_BD: Tensor, layout: Layout) -> Tensor:
        """The second half of the last block, for the tokens that are used afterwards."""
        img_MD, target = img_ND if layout.targets is None else img_ND.index_select(0, layout.targets), layout.target
        _, _, gate1, shift2, scale2, gate2 = mod_BD.chunk(6, dim=-1)
        img_MD = target.gate(img_MD, gate1, attended_MD)
        return target.gate(img_MD, gate2, self.img_mlp(target.modulate(img_MD, shift2, scale2)))


class NormOut(nn.Module):
    """The last modulated norm. Here the released weights say (scale, shift), in the blocks (shift, scale, gate)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 2 * width)

    def forward(self, img_MD: Tensor, temb_BD: Tensor, target: Runs) -> Tensor:
        scale, shift = self.linear(F.silu(temb_BD)).chunk(2, dim=-1)
        return target.modulate(img_MD, shift, scale)
