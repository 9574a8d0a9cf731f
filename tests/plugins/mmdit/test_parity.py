"""The same weights give the same numbers as diffusers, float32: outputs and the gradient of every parameter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from qi_plugins.mmdit import runs

from .conftest import Case, Inputs, Pair, oracle_velocity, worst

ONE = (Case(target=(1, 4, 6), text=5),)
SIZES = (
    Case(target=(1, 4, 6), text=5, sigma=0.25),
    Case(target=(1, 3, 2), text=9, sigma=1.0),
    Case(target=(1, 7, 5), text=1, sigma=0.125),
)
TALL = (Case(target=(1, 9, 2), text=5, sigma=0.75),)
EDITS = (
    Case(target=(1, 4, 6), text=5, references=((1, 3, 5),), sigma=0.25),
    Case(target=(1, 2, 3), text=8, sigma=0.5),
    Case(target=(1, 3, 3), text=4, references=((1, 2, 7), (1, 5, 2)), sigma=0.75),
)
# Past the length up to which the CPU puts samples into one table.
LONG = (
    Case(target=(1, 16, 17), text=20, sigma=0.25),
    Case(target=(1, 17, 16), text=7, references=((1, 9, 15),), sigma=0.5),
    Case(target=(1, 16, 17), text=20, references=((1, 5, 7), (1, 16, 12)), sigma=0.75),
)
LAYERS = (
    Case(target=(3, 2, 3), text=5, references=((1, 2, 3),), sigma=0.25),
    Case(target=(9, 1, 2), text=7, references=((1, 4, 2),), sigma=0.5),
)
VARIANTS = {
    "one": (ONE, {}),
    "tall": (TALL, {}),
    "sizes": (SIZES, {}),
    "edits": (EDITS, {}),
    "2511": (EDITS, {"zero_cond_t": True}),
    "2511-one": (EDITS[2:], {"zero_cond_t": True}),
    "2511-no-references": (ONE, {"zero_cond_t": True}),
    "2511-sizes": (SIZES, {"zero_cond_t": True}),
    "layered": (LAYERS, {"use_additional_t_cond": True, "use_layer3d_rope": True}),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_numbers_are_those_of_diffusers(pair: Callable[..., Pair], variant: str) -> None:
    compare(pair, *VARIANTS[variant])


@pytest.mark.parametrize("zero_cond_t", [False, True])
@pytest.mark.parametrize("long_run", [1, 1 << 40], ids=["one by one", "expanded"])
def test_long_samples_of_several_lengths(
    pair: Callable[..., Pair], zero_cond_t: bool, long_run: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "LONG_RUN", {"cpu": long_run, "cuda": long_run})
    compare(pair, LONG, {"zero_cond_t": zero_cond_t})


def compare(pair: Callable[..., Pair], cases: tuple[Case, ...], changes: dict[str, Any]) -> None:
    oracle, ours = pair(**changes)
    inputs = Inputs.of(*cases)
    expected = oracle_velocity(oracle, inputs)
    found = ours.velocity(inputs.latents, inputs.t, inputs.condition).tokens
    assert worst([(found, expected)]) <= 2e-5

    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2))
    (expected * weights).sum().backward()
    (found * weights).sum().backward()
    theirs = dict(oracle.named_parameters())
    for name, parameter in ours.named_parameters():
        wanted: Any = theirs.pop(name).grad
        if parameter.grad is None:
            assert wanted is None or not wanted.any(), name
        else:
            assert (parameter.grad - wanted).norm() <= 1e-4 * wanted.norm(), name
    assert not theirs


def test_a_batch_is_its_samples_one_by_one(pair: Callable[..., Pair]) -> None:
    _, ours = pair(zero_cond_t=True)
    inputs = Inputs.of(*EDITS, *SIZES)
    together = ours.velocity(inputs.latents, inputs.t, inputs.condition).split()
    for i, found in enumerate(together):
        own = inputs.alone(i)
        alone = ours.velocity(own.latents, own.t, own.condition)
        assert found.grids == alone.grids
        # Relative to the largest value: matrix products of another height round differently in their last bit.
        assert worst([(found.tokens, alone.tokens)]) <= 1e-6 * alone.tokens.abs().max().item()


def test_bfloat16_weights_compute_in_bfloat16(pair: Callable[..., Pair]) -> None:
    _, ours = pair()
    inputs = Inputs.of(*SIZES)
    exact = ours.velocity(inputs.latents, inputs.t, inputs.condition).tokens
    rough = ours.bfloat16().velocity(inputs.latents, inputs.t, inputs.condition).tokens
    assert rough.dtype == torch.float32
    assert 0 < (rough - exact).norm() <= 0.05 * exact.norm()
