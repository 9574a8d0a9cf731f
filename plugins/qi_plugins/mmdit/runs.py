"""Runs of packed tokens that share one modulation: one row of shift, scale and gate for all tokens of a run.

Expanding six rows of D to every token writes more than a block's attention does. So runs of one length broadcast, few
long runs are computed one by one, and only many short runs of different lengths are expanded. Products and sums are
written apart: addcmul is quicker forward, but its backward multiplies twice more (forward and backward, measured: 1.4
to 1.6 times the time).

Shapes: R runs, N tokens, D width, K rows of modulation.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch
import torch.nn.functional as F
from attrs import frozen
from torch import Tensor

from qi_plugins.mmdit.again import again

EPS = 1e-6

# Values in a run, on average, from which it gets calls of its own: on the CPU between the tiny model's captions (3e3)
# and those of a 256-pixel batch at D 512 (1e5); on CUDA more, since every call is a launch.
LONG_RUN = {"cpu": 1 << 14, "cuda": 1 << 20}


@frozen(kw_only=True, eq=False)
class Runs:
    """Consecutive runs of tokens."""

    lengths: tuple[int, ...]
    """Tokens of each run; none is empty."""
    rows: Tensor | None
    """(R,) which row of the modulation a run takes. None: run i takes row i."""
    index: Tensor
    """(N,) the run of each token."""

    @staticmethod
    def of(lengths: Sequence[int], device: torch.device, rows: Sequence[int] | None = None) -> Runs:
        """Runs of these lengths, the empty ones left out."""
        numbers = range(len(lengths)) if rows is None else rows
        kept = [(length, row) for length, row in zip(lengths, numbers, strict=True) if length]
        own = [row for _, row in kept]
        counts = torch.tensor([length for length, _ in kept])
        return Runs(
            lengths=tuple(length for length, _ in kept),
            rows=None if own == list(range(len(lengths))) and rows is None else torch.tensor(own, device=device),
            index=torch.repeat_interleave(torch.arange(len(kept)), counts).to(device),
        )

    def stretch(self, part: int, parts: int) -> Runs:
        """Stretch ``part`` of so many equal ones; where tokens are wanting, the last run is made longer."""
        size = -(-sum(self.lengths) // parts)
        rows = list(range(len(self.lengths))) if self.rows is None else self.rows.tolist()
        ends = list(accumulate(self.lengths))
        ends[-1] = size * parts
        bounds = [min(max(end - part * size, 0), size) for end in (0, *ends)]
        return Runs.of([b - a for a, b in pairwise(bounds)], self.index.device, rows)

    def take(self, modulation_KD: Tensor) -> Tensor:
        """(R, D) the row of each run."""
        return modulation_KD if self.rows is None else modulation_KD.index_select(0, self.rows)

    def _one_by_one(self, x_ND: Tensor) -> bool:
        return x_ND.numel() >= len(self.lengths) * LONG_RUN.get(x_ND.device.type, LONG_RUN["cuda"])

    def modulate(self, x_ND: Tensor, shift_RD: Tensor, scale_RD: Tensor) -> Tensor:
        """LN(x) (1 + scale) + shift."""
        return again(self._modulated, x_ND, shift_RD, scale_RD, product=True)

    def gate(self, x_ND: Tensor, gate_RD: Tensor, y_ND: Tensor) -> Tensor:
        """x + gate y."""
        return again(self._gated, x_ND, gate_RD, y_ND)

    def _modulated(self, x_ND: Tensor, shift_RD: Tensor, scale_RD: Tensor) -> Tensor:
        weight_RD, width = 1 + scale_RD, x_ND.shape[-1:]
        if self._one_by_one(x_ND) and (x_ND.is_cuda or _plain(x_ND)):
            # The norm's own affine weights do it in one pass over the tokens. Not in bfloat16 on the CPU, where their
            # gradients are summed in bfloat16 (5 % off over 1500 tokens).
            runs = zip(_split(x_ND, self.lengths), weight_RD.unbind(), shift_RD.unbind(), strict=True)
            return _cat([F.layer_norm(x, width, weight, shift, EPS) for x, weight, shift in runs])
        return self._expanded(shift_RD, F.layer_norm(x_ND, width, eps=EPS), weight_RD)

    def _gated(self, x_ND: Tensor, gate_RD: Tensor, y_ND: Tensor) -> Tensor:
        if len(set(self.lengths)) == 1:
            shape = (len(self.lengths), -1, x_ND.shape[-1])
            return (x_ND.view(shape) + gate_RD[:, None] * y_ND.view(shape)).view_as(x_ND)
        if self._one_by_one(x_ND):
            runs = zip(_split(x_ND, self.lengths), gate_RD.unbind(), _split(y_ND, self.lengths), strict=True)
            return _cat([x + gate * y for x, gate, y in runs])
        return x_ND + self._spread(gate_RD) * y_ND

    def _expanded(self, shift_RD: Tensor, x_ND: Tensor, weight_RD: Tensor) -> Tensor:
        if len(set(self.lengths)) == 1:
            shape = (len(self.lengths), -1, x_ND.shape[-1])
            return (x_ND.view(shape) * weight_RD[:, None] + shift_RD[:, None]).view_as(x_ND)
        shift_ND, weight_ND = self._spread(torch.cat([shift_RD, weight_RD], dim=-1)).chunk(2, dim=-1)
        return x_ND * weight_ND + shift_ND

    def _spread(self, rows_RD: Tensor) -> Tensor:
        """(N, D) for every token its run's row."""
        if _plain(rows_RD):
            return rows_RD.index_select(0, self.index)
        return _Spread.apply(rows_RD, self.index, self.lengths)  # type: ignore[no-untyped-call, no-any-return]


class _Spread(torch.autograd.Function):
    """``index_select`` by runs. Its own derivative adds to a row token by token: on CUDA in any order, and in
    bfloat16, where a sum stops growing. Here it is the sum of each run in float32: the same every time."""

    @staticmethod
    def forward(ctx: Any, rows_RD: Tensor, index_N: Tensor, lengths: tuple[int, ...]) -> Tensor:
        ctx.lengths = lengths
        return rows_RD.index_select(0, index_N)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        dtype = torch.promote_types(grads[0].dtype, torch.float32)
        sums = torch.stack([run.sum(0, dtype=dtype) for run in _split(grads[0], ctx.lengths)])
        return sums.to(grads[0].dtype), None, None


def _plain(x: Tensor) -> bool:
    """Float32 on the CPU, where torch's own derivatives are exact and quicker."""
    return x.device.type == "cpu" and x.dtype == torch.float32


def _split(x: Tensor, lengths: tuple[int, ...]) -> tuple[Tensor, ...]:
    return torch.split(x, list(lengths))


def _cat(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)
