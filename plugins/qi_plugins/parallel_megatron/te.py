"""TransformerEngine's linear layers (checked against its documentation, 2.9 to 2.14; it needs a GPU to run).

A layer is the local product alone: what ranks send each other is megatron-core's, so q, k and v share one sum of
gradients, which TransformerEngine's own column layers would each make for themselves.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
import transformer_engine.pytorch as te
from megatron.core.tensor_parallel import (
    gather_from_tensor_model_parallel_region,
    reduce_from_tensor_model_parallel_region,
)
from torch import Tensor, nn

from qi_plugins.parallel_megatron.layers import enter
from qi_plugins.parallel_megatron.library import Grid

if TYPE_CHECKING:
    from qi_core.denoiser import Split

ROWS = 16
"""Products in 8 bits take tokens by so many."""


def make_linear(split: Split, shards: dict[str, nn.Parameter], grid: Grid, dtype: torch.dtype) -> nn.Module:
    """The layer of this rank's part of a weight."""
    weight, bias = shards["weight"], shards.get("bias")
    return TELinear(
        weight.shape[1],
        weight.shape[0],
        bias=bias is not None,
        params_dtype=dtype,
        device=weight.device,
        return_bias=split == "rows" and bias is not None,
    ).within(split, grid)


class TELinear(te.Linear):  # type: ignore[misc]
    """TransformerEngine's product between megatron-core's mappings."""

    def within(self, split: Split, grid: Grid) -> TELinear:
        """How it is divided."""
        self._split, self._tensor = split, grid.tensor
        return self

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        count = len(flat)
        flat = F.pad(flat, (0, 0, 0, -count % ROWS))
        bias: Tensor | None = None
        if self._split == "gathered":
            out = gather_from_tensor_model_parallel_region(super().forward(enter(flat, self._tensor)), self._tensor)
        elif self._split == "rows":
            found: Any = super().forward(flat)
            part, bias = found if isinstance(found, tuple) else (found, None)
            out = reduce_from_tensor_model_parallel_region(part[:count].contiguous(), self._tensor)
        else:
            out = super().forward(flat)
        whole: Tensor = out[:count] if bias is None else out + bias
        return whole.view(*x.shape[:-1], whole.shape[-1])


def eight_bits() -> AbstractContextManager[None]:
    """Scales of each tensor as it is: unlike those of a history they need no state in checkpoints."""
    from transformer_engine.common.recipe import Float8CurrentScaling

    recipe = Float8CurrentScaling()
    if hasattr(te, "autocast"):
        return cast("AbstractContextManager[None]", te.autocast(enabled=True, recipe=recipe))
    return cast("AbstractContextManager[None]", te.fp8_autocast(enabled=True, fp8_recipe=recipe))
