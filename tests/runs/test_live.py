"""A run can be changed while it goes on, and a replay of its events gives the same run."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from support.small_run import here, losses, qi, start, steps, wait_for_step, write_recipe


@pytest.mark.slow
def test_changes_reach_the_live_run_and_are_replayed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe, folder = write_recipe(tmp_path), tmp_path / "run"
    many = ("--set", "train.steps=100000")
    process = start("run", recipe, "--folder", folder, *many)
    wait_for_step(process, folder, 5)
    for setting in ("sampler=heun", "optimizer.lr=5e-4", 'preview.prompts=["the word \\"HI\\""]'):
        here("set", folder, setting)
    told = capsys.readouterr().out
    assert told.count("in effect after step") == 3

    here("set", folder, "sampler=hein", code=2)
    assert "did you mean 'heun'" in capsys.readouterr().err
    here("set", folder, "train.batch=8", code=2)
    assert "can't be changed while a run goes on" in capsys.readouterr().err

    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    assert [event["setting"] for event in events] == [
        "sampler=heun",
        "optimizer.lr=5e-4",
        'preview.prompts=["the word \\"HI\\""]',
    ]
    changed = events[1]["step"]
    wait_for_step(process, folder, changed + 10)
    process.send_signal(signal.SIGKILL)  # after the change, maybe before any checkpoint of it
    process.communicate()
    rates = {int(str(r["step"])): r["lr"] for r in steps(folder)}
    assert rates[changed] == pytest.approx(min(changed / 5, 1) * 1e-3)
    assert rates[changed + 6] == pytest.approx(5e-4)

    end = changed + 20
    qi("run", recipe, "--folder", folder, "--set", f"train.steps={end}")
    resumed = losses(folder)  # steps done twice were equal to the last bit
    rates = {int(str(r["step"])): r["lr"] for r in steps(folder)}
    assert rates[end] == pytest.approx(5e-4), "the change outlives a resume"

    replay = tmp_path / "replay"
    replay.mkdir()
    here("run", recipe, "--folder", replay, "--set", "train.steps=1")
    (replay / "events.jsonl").write_text((folder / "events.jsonl").read_text())
    here("run", recipe, "--folder", replay, "--set", f"train.steps={end}")
    assert losses(replay) == {step: loss for step, loss in resumed.items() if step <= end}


def test_nothing_is_set_where_nothing_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe, folder = write_recipe(tmp_path), tmp_path / "run"
    here("run", recipe, "--folder", folder, "--set", "train.steps=1")
    here("set", folder, "sampler=heun", code=2)
    assert "no run is going on there" in capsys.readouterr().err
    here("set", tmp_path, "sampler=heun", code=2)
    assert "no run there" in capsys.readouterr().err


def test_a_sampler_is_swapped_at_launch_and_in_a_process(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from attrs import evolve

    from qi_registry.assemble import painter
    from qi_registry.reader import read
    from qi_registry.runs import read_run

    recipe, folder = write_recipe(tmp_path), tmp_path / "run"
    here("run", recipe, "--folder", folder, "--set", "train.steps=2")
    brush = painter(read_run(folder), folder)
    heun = read(recipe, ["sampler=heun"]).sampler
    one, other = (b.paint(["x"], [(16, 32)])[0] for b in (brush, evolve(brush, sampler=heun)))
    assert not one.equal(other)
    here("sample", folder, "x", "--set", "sampler=heun", "-o", tmp_path / "x.png")
    assert (tmp_path / "x.png").exists()
