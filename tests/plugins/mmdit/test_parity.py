"""The same weights give the same numbers as diffusers, float32: outputs and the gradient of every parameter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

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
    "2511-text-only": (SIZES, {"zero_cond_t": True}),
    "layered": (LAYERS, {"use_additional_t_cond": True, "use_layer3d_rope": True}),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_numbers_are_those_of_diffusers(pair: Callable[..., Pair], variant: str) -> None:
    cases, changes = VARIANTS[variant]
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
