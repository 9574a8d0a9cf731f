"""RMSNorm of queries or keys, then their rotation: one function, since on the CPU it is bound by passes over memory.

Shapes: S tokens, H heads, E channels of a head, P = E / 2 pairs.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from qi_plugins.mmdit.rope import rotate
from qi_plugins.mmdit.runs import EPS


def norm_rotate(x_SHE: Tensor, weight_E: Tensor, turns_S1P: Tensor) -> Tensor:
    """rotate(x / rms(x) * weight): per token and head, the mean square and the rotation in float32."""
    plain = x_SHE.device.type == "cpu" and x_SHE.dtype == weight_E.dtype == torch.float32
    if plain and not torch.compiler.is_compiling():
        return _NormRotate.apply(x_SHE, weight_E, turns_S1P)  # type: ignore[no-untyped-call, no-any-return]
    # Autocast on CUDA gives float32 norms; attention's kernels want the dtype of values, and joining is a copy.
    return rotate(F.rms_norm(x_SHE, weight_E.shape, weight_E.to(x_SHE.dtype), EPS), turns_S1P).to(x_SHE.dtype)


def _turned(x_SHE: Tensor, turns_S1P: Tensor) -> Tensor:
    """In place."""
    torch.view_as_complex(x_SHE.view(*x_SHE.shape[:-1], -1, 2)).mul_(turns_S1P)
    return x_SHE


class _NormRotate(torch.autograd.Function):
    """With its derivative by hand: half the passes of autograd's composition."""

    @staticmethod
    def forward(ctx: Any, x_SHE: Tensor, weight_E: Tensor, turns_S1P: Tensor) -> Tensor:
        square = torch.linalg.vector_norm(x_SHE, dim=-1, keepdim=True).square_().div_(x_SHE.shape[-1])
        inverse_SH1 = square.add_(EPS).rsqrt_()
        ctx.save_for_backward(x_SHE, weight_E, turns_S1P, inverse_SH1)
        return _turned((x_SHE * inverse_SH1).mul_(weight_E), turns_S1P)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        """y = turn(n w), n = x r, r = 1 / rms(x).

        With u = unturn(dy): dw = sum(u n), dx = r (u w - n mean(u w n)).
        """
        x_SHE, weight_E, turns_S1P, inverse_SH1 = ctx.saved_tensors
        unturned = _turned(grads[0].clone(memory_format=torch.contiguous_format), turns_S1P.conj())
        normed = x_SHE * inverse_SH1
        product = unturned * normed
        mean_SH1 = (product @ (weight_E / len(weight_E)))[..., None]
        dx = unturned.mul_(weight_E).addcmul_(normed, mean_SH1, value=-1).mul_(inverse_SH1)
        return dx, product.sum((0, 1)), None
