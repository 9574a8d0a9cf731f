"""Post-training under autocast: what frozen weights say is never what the trained ones are taken to say."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from support.small_run import RECIPE, here, steps, write_recipe

PAIRS = """
[source]
name = "rendered-pairs"
[source.text]
height = 16
width = 32
lengths = [1, 2]
look_alikes = ["OQ", "EF", "MN", "IL"]
"""


def preferences(folder: Path) -> Path:
    """The small recipe with dpo."""
    head, rest = RECIPE.split("[source]")
    text = head.replace('objective = "flow-matching"', 'objective = {name = "dpo", beta = 5000.0}')
    return write_recipe(folder, text + "[sampler]" + rest.split("[sampler]")[1] + PAIRS)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_policy_leaves_its_reference_with_the_first_update(tmp_path: Path, precision: str) -> None:
    """Autocast keeps casts of weights; with one of the reference's the margin would stay 0 for ever."""
    recipe, folder = preferences(tmp_path), tmp_path / "run"
    precise = ("--set", f'parallel.precision="{precision}"')
    here("run", recipe, "--folder", folder, *precise, "--set", "train.steps=6", "--set", "train.clip=0")
    losses = [float(str(record["loss"])) for record in steps(folder)]
    assert losses[0] == pytest.approx(math.log(2), abs=1e-7), "the policy is its reference"
    assert all(abs(loss - math.log(2)) > 1e-4 for loss in losses[1:]), losses
