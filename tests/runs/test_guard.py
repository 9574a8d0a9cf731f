"""What keeps a run from going wrong unseen: updates far out of the usual are left out, the start is measured too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.small_run import here, losses, write_recipe

SCORE = (
    'evaluation=[{name="glyph-match", title="words", count=4, '
    'source={name="rendered-text", split="held-out", height=16, width=32, lengths=[1, 2]}}]'
)


def test_exploding_gradients_end_the_run_with_its_checkpoints_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, folder = write_recipe(tmp_path), tmp_path / "run"
    # a thousandth of the usual norm is "far larger": everything is, as soon as ten updates say what is usual
    here("run", recipe, "--folder", folder, "--set", "train.spike=0.001", code=2)
    assert "step 30: 20 updates in a row were left out" in capsys.readouterr().err
    whole = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert whole[-1] == "step-00000028"
    state = json.loads((folder / "checkpoints" / whole[-1] / "state.json").read_text())
    assert state["skipped_updates"] == 18


def test_a_guard_that_is_never_needed_changes_nothing(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    for name, spike in (("off", "0"), ("on", "1000")):
        here("run", recipe, "--folder", tmp_path / name, "--set", f"train.spike={spike}", "--set", "train.steps=15")
    assert losses(tmp_path / "on") == losses(tmp_path / "off")


def test_what_a_run_starts_from_is_measured_too_and_only_once(tmp_path: Path) -> None:
    recipe, folder = write_recipe(tmp_path), tmp_path / "run"
    words = ("--folder", folder, "--set", SCORE, "--set", "train.evaluate_first=true")
    for steps in ("3", "5"):
        here("run", recipe, *words, "--set", f"train.steps={steps}")
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records if record["event"] == "evaluated"] == [0, 3, 5]


def test_two_evaluations_of_one_name_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Their figures and pictures would be kept under one name."""
    recipe, (score,) = write_recipe(tmp_path), SCORE.removeprefix("evaluation=[").removesuffix("]").splitlines()
    here("run", recipe, "--folder", tmp_path / "run", "--set", f"evaluation=[{score}, {score}]", code=2)
    assert "two are called 'words'" in capsys.readouterr().err
