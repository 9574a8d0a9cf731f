"""On CUDA the same weights give diffusers' numbers, in float32 and in bfloat16."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from attrs import evolve
from torch import Tensor

from .conftest import Case, Inputs, Pair, oracle_velocity, worst

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("no_tf32")]
DEVICE = torch.device("cuda")

# Times that bfloat16 holds exactly: diffusers rounds them, we don't.
SIZES = (
    Case(target=(1, 16, 12), text=50, sigma=0.25),
    Case(target=(1, 3, 2), text=9, sigma=1.0),
    Case(target=(1, 20, 20), text=1, sigma=0.125),
)
EQUAL = (Case(target=(1, 8, 8), text=20, sigma=0.5), Case(target=(1, 8, 8), text=20, sigma=0.75))
EDITS = (
    Case(target=(1, 4, 6), text=5, references=((1, 3, 5),), sigma=0.25),
    Case(target=(1, 9, 3), text=8, sigma=0.5),
    Case(target=(1, 3, 3), text=4, references=((1, 2, 7), (1, 5, 2)), sigma=0.75),
)
VARIANTS: dict[str, tuple[tuple[Case, ...], dict[str, Any]]] = {
    "sizes": (SIZES, {}),
    "equal": (EQUAL, {}),
    "edits": (EDITS, {}),
    "2511": (EDITS, {"zero_cond_t": True}),
}


def moved(inputs: Inputs, dtype: torch.dtype) -> Inputs:
    def to(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(tensor.to(DEVICE, dtype) for tensor in tensors)

    return evolve(
        inputs, targets=to(inputs.targets), references=tuple(map(to, inputs.references)), texts=to(inputs.texts)
    )


def both(pair: Pair, inputs: Inputs, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(ours, theirs) with weights and inputs in a dtype."""
    oracle, ours = (network.to(DEVICE, dtype) for network in pair)
    own = moved(inputs, dtype)
    with torch.device(DEVICE):  # where the oracle's times are made
        expected = oracle_velocity(oracle, own)
    return ours.velocity(own.latents, own.t.to(DEVICE), own.condition).tokens, expected


@pytest.mark.parametrize("variant", VARIANTS)
def test_float32_outputs_and_gradients(pair: Callable[..., Pair], variant: str) -> None:
    cases, changes = VARIANTS[variant]
    oracle, ours = pair(**changes)
    found, expected = both((oracle, ours), Inputs.of(*cases), torch.float32)
    assert worst([(found, expected)]) <= 1e-4

    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2)).to(DEVICE)
    (expected * weights).sum().backward()
    (found * weights).sum().backward()
    theirs = dict(oracle.named_parameters())
    for name, parameter in ours.named_parameters():
        wanted = theirs[name].grad
        if parameter.grad is None:
            assert wanted is None or not wanted.any(), name
        else:
            assert (parameter.grad - wanted).norm() <= 1e-3 * wanted.norm(), name


@pytest.mark.parametrize("attention", ["sdpa", "auto"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_bfloat16(pair: Callable[..., Pair], variant: str, attention: str) -> None:
    """``auto`` takes the kernel for samples of different lengths; ``sdpa`` one call a sample, as diffusers does."""
    cases, changes = VARIANTS[variant]
    found, expected = both(pair({"attention": attention}, **changes), Inputs.of(*cases), torch.bfloat16)
    apart = (found.float() - expected.float()).norm() / expected.float().norm()
    assert apart <= 2e-2


def test_training_in_autocast_stays_near_float32(pair: Callable[..., Pair]) -> None:
    """What a run on a card does: float32 weights, products in bfloat16."""
    _, ours = pair()
    ours.to(DEVICE)
    inputs = moved(Inputs.of(*SIZES), torch.float32)
    t = inputs.t.to(DEVICE)
    exact = ours.velocity(inputs.latents, t, inputs.condition).tokens
    with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
        rough = ours.velocity(inputs.latents, t, inputs.condition).tokens
    assert rough.dtype == torch.float32
    assert 0 < (rough - exact).norm() <= 5e-2 * exact.norm()
    rough.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in ours.parameters() if p.requires_grad)
