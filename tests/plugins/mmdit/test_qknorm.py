"""The derivative by hand is autograd's."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from qi_plugins.mmdit.qknorm import norm_rotate
from qi_plugins.mmdit.rope import Rope, rotate


def test_norm_and_rotation_in_one_are_the_two_in_turn() -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight, upstream = (torch.randn(*shape, generator=generator) for shape in ((5, 2, 16), (16,), (5, 2, 16)))
    x.requires_grad_()
    weight.requires_grad_()
    turns = Rope((4, 6, 6)).text([3], [5], torch.device("cpu"))[:, None]
    found = norm_rotate(x, weight, turns)
    expected = rotate(F.rms_norm(x, weight.shape, weight, 1e-6), turns)
    torch.testing.assert_close(found, expected)
    ours = torch.autograd.grad(found, (x, weight), upstream)
    for a, b in zip(ours, torch.autograd.grad(expected, (x, weight), upstream), strict=True):
        torch.testing.assert_close(a, b)
    assert norm_rotate(x.bfloat16(), weight, turns).dtype == torch.bfloat16


class CudaAutocast(TorchFunctionMode):
    """There RMSNorm is on the list of what is computed, and given, in float32."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function is F.rms_norm:
            return function(args[0].float(), *args[1:], **kwargs | {"weight": kwargs["weight"].float()})
        return function(*args, **kwargs)


def test_attention_gets_bfloat16_where_autocast_norms_in_float32() -> None:
    """Else queries and keys would be joined in float32, and the kernel for samples of any lengths refuse them."""
    x, turns = torch.randn(5, 2, 16).bfloat16(), Rope((4, 6, 6)).text([3], [5], torch.device("cpu"))[:, None]
    with CudaAutocast():
        assert norm_rotate(x, torch.ones(16), turns).dtype == torch.bfloat16
