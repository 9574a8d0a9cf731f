"""What a run's folder holds, who may have it, and what is refused before anything in it is touched."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.small_run import here, write_recipe

FEW = ("--set", "train.steps=2")


def changes(folder: Path) -> list[tuple[int, str]]:
    """The ledger of live changes."""
    lines = (folder / "events.jsonl").read_text(encoding="utf-8").splitlines()
    return [(record["step"], record["setting"]) for record in map(json.loads, lines)]


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("preview.height=17", "preview: size 32x17"),
        ("evaluation=[{name='glyph-match', count=2, source={name='rendered-text', width=36}}]", "36"),
    ],
)
def test_a_picture_that_cannot_be_drawn_is_refused_before_the_first_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], setting: str, told: str
) -> None:
    drawn = ("--set", "preview.every=1", "--set", 'preview.prompts=["x"]')
    here("run", write_recipe(tmp_path), "--folder", tmp_path / "run", *FEW, *drawn, "--set", setting, code=2)
    error = capsys.readouterr().err
    assert told in error
    assert "multiple" in error
    assert len(error.splitlines()) == 1


def test_a_live_change_that_could_not_be_drawn_is_refused_and_not_kept(tmp_path: Path) -> None:
    from qi_core import QiError, chores
    from qi_registry.assemble import assemble
    from qi_registry.reader import read

    run = assemble(read(write_recipe(tmp_path), ["preview.every=1", 'preview.prompts=["x"]']), tmp_path)
    run.channel.open()
    request, fine = (run.channel.folder / name for name in ("1.set", "2.set"))
    request.write_text("preview.height=17")
    fine.write_text("preview.height=24")
    chores.changes(run)
    assert "multiples of 8" in json.loads(request.with_suffix(".reply").read_text())["message"]
    assert changes(tmp_path) == [(0, "preview.height=24")]
    assert run.preview.height == 24
    with pytest.raises(QiError, match="can't be changed"):
        run.change(run, "train.batch=8")
