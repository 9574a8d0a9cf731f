"""The derivative by hand is autograd's."""

from __future__ import annotations

import torch
import torch.nn.functional as F

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
