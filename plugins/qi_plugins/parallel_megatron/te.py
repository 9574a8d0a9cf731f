"""TransformerEngine's linear layers and attention (held against its documentation, 2.9 to 2.14; it needs a GPU).

A layer is the local product alone: what ranks send each other is megatron-core's, so q, k and v share one sum of
gradients, which TransformerEngine's own column layers would each make for themselves.

Norms stay the network's: those of tokens have no weights and are modulated sample by sample, those of heads are rotated
in the same pass.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
import transformer_engine.pytorch as te
from torch import Tensor, nn

from qi_plugins.parallel_megatron.layers import Ways

if TYPE_CHECKING:
    from qi_core.denoiser import Packed, Split

ROWS = 16
"""Products in 8 bits take tokens by so many."""
KERNELS: tuple[torch.dtype, ...] = (torch.bfloat16,)
"""Dtypes for which there are kernels over samples of different lengths."""


def make_linear(
    split: Split, shards: dict[str, nn.Parameter], ways: Ways, dtype: torch.dtype, device: torch.device
) -> nn.Module:
    """The layer of this rank's part of a weight; its own, which others will take the place of, is on ``device``."""
    weight, bias = shards["weight"], shards.get("bias")
    return TELinear(
        weight.shape[1],
        weight.shape[0],
        bias=bias is not None,
        params_dtype=dtype,
        device=device,
        return_bias=split == "rows" and bias is not None,
    ).within(split, ways)


class TELinear(te.Linear):  # type: ignore[misc]
    """TransformerEngine's product between megatron-core's mappings."""

    def within(self, split: Split, ways: Ways) -> TELinear:
        """How it is divided."""
        self._split, self._ways = split, ways
        return self

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        if self._split == "gathered":
            out = self._ways.gather(self._product(self._ways.copy(flat)))
        elif self._split == "rows":
            found = self._product(flat)
            part, bias = found if isinstance(found, tuple) else (found, None)
            out = self._ways.leave(part)
            out = out if bias is None else out + bias
        else:
            out = self._product(flat)
        return out.view(*x.shape[:-1], out.shape[-1]) if x.ndim > 2 else out

    def _product(self, x_ND: Tensor) -> Any:
        """Of as many tokens as there are; rows' bias beside it."""
        found = super().forward(F.pad(x_ND, (0, 0, 0, -len(x_ND) % ROWS)))
        return (found[0][: len(x_ND)], found[1]) if isinstance(found, tuple) else found[: len(x_ND)]


class TEAttention(nn.Module):
    """TransformerEngine's choice of kernel for packed rows ("thd"). What it has none for goes to the network's own."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self._cores: dict[
            tuple[int, int], nn.Module
        ] = {}  # no submodules: they have no weights, but would have a state

    def forward(self, q_SHE: Tensor, k_THE: Tensor, v_THE: Tensor, plan: Packed) -> Tensor:
        if not plan.in_order or q_SHE.dtype not in KERNELS:
            return cast("Tensor", self.inner(q_SHE, k_THE, v_THE, plan))
        out: Tensor = self._core(*q_SHE.shape[1:])(
            q_SHE.contiguous(),
            k_THE.contiguous(),
            v_THE.contiguous(),
            cu_seqlens_q=plan.query_ends,
            cu_seqlens_kv=plan.key_ends,
            max_seqlen_q=max(plan.query_lengths),
            max_seqlen_kv=max(plan.key_lengths),
        )
        return out.view(len(q_SHE), -1)

    def _core(self, heads: int, channels: int) -> nn.Module:
        """For this rank's heads."""
        if (heads, channels) not in self._cores:
            self._cores[heads, channels] = te.DotProductAttention(
                heads, channels, qkv_format="thd", attn_mask_type="padding", attention_dropout=0.0
            )
        return self._cores[heads, channels]


def eight_bits() -> AbstractContextManager[None]:
    """Scales of each tensor as it is: unlike those of a history they need no state in checkpoints."""
    from transformer_engine.common.recipe import Float8CurrentScaling

    recipe = Float8CurrentScaling()
    if hasattr(te, "autocast"):
        return cast("AbstractContextManager[None]", te.autocast(enabled=True, recipe=recipe))
    return cast("AbstractContextManager[None]", te.fp8_autocast(enabled=True, fp8_recipe=recipe))
