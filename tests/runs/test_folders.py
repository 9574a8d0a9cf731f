"""What a run's folder holds, who may have it, and what is refused before anything in it is touched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from support.small_run import here, losses, steps, write_recipe
from support.tiny_pipeline import make_pipeline

FEW = ("--set", "train.steps=2")


def changes(folder: Path) -> list[tuple[int, str]]:
    """The ledger of live changes."""
    lines = (folder / "events.jsonl").read_text(encoding="utf-8").splitlines()
    return [(record["step"], record["setting"]) for record in map(json.loads, lines)]


def records(folder: Path, event: str) -> list[dict[str, Any]]:
    """The log's lines of one kind."""
    lines = map(json.loads, (folder / "log.jsonl").read_text(encoding="utf-8").splitlines())
    return [record for record in lines if record["event"] == event]


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


def test_what_is_asked_at_a_resume_outlives_what_was_set_before(tmp_path: Path) -> None:
    recipe, folder = write_recipe(tmp_path), tmp_path / "run"
    here("run", recipe, "--folder", folder, *FEW)
    (folder / "events.jsonl").write_text(
        '{"step": 1, "setting": "optimizer.lr=5e-4"}\n{"step": 3, "setting": "optimizer.lr=6e-4"}\n'
    )
    more = ("--set", "train.steps=4", "--set", "optimizer.warmup=0")
    here("run", recipe, "--folder", folder, *more, "--set", "optimizer.lr=1e-3")  # the recipe's own
    rates = {record["step"]: record["lr"] for record in steps(folder)}
    assert (rates[3], rates[4]) == (1e-3, 1e-3)
    assert changes(folder)[2:] == [(2, "optimizer.lr=1e-3"), (3, "optimizer.lr=1e-3")]
    recipe.write_text(recipe.read_text().replace("steps = 4", "steps = 5"))  # of the sampler
    here("run", recipe, "--folder", folder, *more, "--set", "train.steps=5")
    here("run", recipe, "--folder", folder, *more, "--set", "train.steps=6")
    assert changes(folder)[4:] == [(4, "sampler.steps = 5")], "once"
    told = [record["setting"] for record in records(folder, "change") if record["step"] >= 4]
    assert told == ["sampler.steps = 5"]


def test_a_resume_that_fails_leaves_the_recipe_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe, folder = write_recipe(tmp_path), tmp_path / "run"
    here("run", recipe, "--folder", folder, *FEW)
    before = (folder / "recipe.toml").read_text()
    here("run", folder, "--set", "source={name='images', path='nowhere'}", code=2)
    here("run", folder, "--set", "denoiser.layers=3", code=2)
    told = capsys.readouterr().err
    assert "denoiser.layers: 2 -> 3" in told
    assert "--fresh" in told
    assert (folder / "recipe.toml").read_text() == before
    here("run", folder, "--set", "train.steps=3", "--set", "denoiser.checkpointing=all")  # changes no weight
    assert max(losses(folder)) == 3


def test_where_nothing_is_saved_every_recipe_may_begin(tmp_path: Path) -> None:
    recipe, folder = write_recipe(tmp_path), tmp_path / "run"
    folder.mkdir()
    (folder / "recipe.toml").write_text(recipe.read_text())
    here("run", recipe, "--folder", folder, *FEW, "--set", "denoiser.layers=1")
    assert max(losses(folder)) == 2


def test_fresh_sets_only_a_run_aside(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, folder, other = write_recipe(tmp_path), tmp_path / "run", tmp_path / "thesis"
    other.mkdir()
    (other / "chapter.tex").write_text("all I have")
    here("run", recipe, "--folder", other, "--fresh", code=2)
    assert "not empty and no run" in capsys.readouterr().err
    assert (other / "chapter.tex").exists()
    here("run", recipe, "--folder", folder, *FEW)
    monkeypatch.chdir(folder)
    here("run", recipe, "--folder", ".", "--fresh", *FEW)
    assert losses(tmp_path / "run.1") == losses(folder)


def test_the_recipe_that_a_run_keeps_stands_for_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, folder = write_recipe(tmp_path), tmp_path / "run"
    here("run", recipe, "--folder", folder, *FEW)
    monkeypatch.chdir(tmp_path)
    here("run", folder / "recipe.toml", "--set", "train.steps=3")
    assert max(losses(folder)) == 3
    here("run", folder / "recipe.toml", "--folder", "copy", *FEW)  # the same recipe, another run
    assert not (tmp_path / "runs").exists()


def test_an_import_that_fails_leaves_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from qi_core import Checkpoint, QiError
    from qi_plugins.store_folder.store import FolderStore

    pipeline, folder = make_pipeline(tmp_path / "released"), tmp_path / "run"

    def full(store: FolderStore, checkpoint: Checkpoint) -> Path:
        (folder / "checkpoints" / ".writing-1").mkdir(parents=True)
        raise QiError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(FolderStore, "save", full)
        here("import", pipeline, folder, code=2)
    assert not (folder / "recipe.toml").exists(), "or 'qi run' would begin from chance"
    here("import", pipeline, folder)
    assert (folder / "recipe.toml").exists()


@pytest.mark.parametrize(
    "words",
    [
        ("run", "small.toml", "--folder", "small.toml"),
        ("run", "small.toml", "--folder", "small.toml/x"),
        ("run", "small.toml", "--folder", "x" * 300),
        ("run", "small.toml", "--set", "train.seed=100000000000000000000"),
        ("run", "small.toml", "--set", "train.seed=-1"),
        ("schema", "-o", "nowhere/schema.json"),
    ],
)
def test_what_the_system_refuses_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    write_recipe(tmp_path)
    monkeypatch.chdir(tmp_path)
    here(*words, code=2)
    told = capsys.readouterr().err
    assert len(told.splitlines()) == 1
    assert words[-1].partition("=")[0] in told


def test_a_seed_out_of_range_is_one_line_for_a_picture_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    here("run", write_recipe(tmp_path), "--folder", tmp_path / "run", *FEW)
    here("sample", tmp_path / "run", "x", "--seed", "-1", "-o", tmp_path / "x.png", code=2)
    assert capsys.readouterr().err == "seed: -1; wanted 0 to 2**63 - 1\n"


def test_what_the_source_skips_when_it_is_opened_is_told_at_the_start(tmp_path: Path) -> None:
    recipe, folder = write_recipe(tmp_path), tmp_path / "run"
    lines = tmp_path / "lines.txt"
    lines.write_text('AB\nC"\n')
    here("run", recipe, "--folder", folder, *FEW, "--set", f"source.text={lines}")
    assert any("skipped 1" in note for note in records(folder, "start")[0]["notes"])
