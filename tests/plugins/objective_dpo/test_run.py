"""dpo in a whole run, started as users start it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from support.small_run import RECIPE, here, losses, steps, write_recipe

PAIRS = """
[source]
name = "rendered-pairs"
[source.text]
height = 16
width = 32
lengths = [1, 2]
look_alikes = ["OQ", "EF", "MN"]
"""
TEXT = """[source]
name = "rendered-text"
height = 16
width = 32
lengths = [1, 2]
"""
assert TEXT in RECIPE
PLAIN = (
    RECIPE.replace(TEXT, PAIRS).replace('objective = "flow-matching"', "").replace("save_every = 7", "save_every = 3")
)

START = """
[objective]
name = "dpo"
beta = 50.0
"""
REFRESHED = (
    START
    + """
reference = "refreshed"
every = 4
"""
)
STORED = """
[objective]
name = "dpo"
beta = 50.0
reference = "stored"
errors = "{folder}/errors.jsonl"
[[evaluation]]
name = "reference-errors"
path = "{folder}/errors.jsonl"
count = 200
draws = 1
[evaluation.source]
""" + PAIRS.replace("[source]\n", "").replace("[source.text]", "[evaluation.source.text]")


def part(folder: Path, name: str) -> list[float]:
    return [float(record["parts"][name]) for record in steps(folder)]  # type: ignore[index]


@pytest.mark.parametrize("objective", [START, REFRESHED], ids=["start", "refreshed"])
def test_a_resumed_run_is_an_unbroken_one_bit_for_bit(tmp_path: Path, objective: str) -> None:
    """The reference is kept with the checkpoint: taken anew at the resume, it would be another."""
    recipe = write_recipe(tmp_path, PLAIN + objective)
    here("run", recipe, "--folder", tmp_path / "whole", "--set", "train.steps=9")
    here("run", recipe, "--folder", tmp_path / "cut", "--set", "train.steps=6")
    here("run", recipe, "--folder", tmp_path / "cut", "--set", "train.steps=9")
    whole = losses(tmp_path / "whole")
    assert whole[1] == pytest.approx(math.log(2), abs=1e-6)
    assert whole[8] != pytest.approx(math.log(2), abs=1e-6)
    assert losses(tmp_path / "cut") == whole


def test_errors_measured_before_the_first_update_stand_in_for_the_reference(tmp_path: Path) -> None:
    """One run, no second copy of the weights: measured, then trained on."""
    recipe = write_recipe(tmp_path, PLAIN + STORED.format(folder=tmp_path))
    settings = ("--set", "train.steps=6", "--set", "train.evaluate_first=true")
    here("run", recipe, "--folder", tmp_path / "run", *settings)
    margins = part(tmp_path / "run", "margin")
    assert margins[0] == pytest.approx(0, abs=1e-3)  # rounding, times beta
    assert losses(tmp_path / "run")[1] == pytest.approx(math.log(2), abs=1e-3)
    assert abs(margins[-1]) > 1e-3
