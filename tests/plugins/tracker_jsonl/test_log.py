"""The tracker "jsonl": a line an event, numbers with all their digits, one file over all resumes."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
import structlog
import torch

from qi_core import Change, Ended, Evaluated, Picture, Place, QiError, Saved, Start, StepDone
from qi_plugins.tracker_jsonl import qi_trackers
from qi_plugins.tracker_jsonl.component import JsonLines


def place(folder: Path) -> Place:
    return Place(device=torch.device("cpu"), dtype=torch.float32, seed=0, folder=folder)


def done(step: int, loss: float = 0.5) -> StepDone:
    seconds = {"data": 0.1, "forward": 0.3}
    return StepDone(step=step, loss=loss, lr=1e-4, grad_norm=2.0, samples=8, seconds=seconds, parts={"t<0.5": 0.25})


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]


def test_the_hook_gives_it() -> None:
    assert qi_trackers() == {"jsonl": JsonLines}


def test_every_event_is_a_line_with_all_it_says(tmp_path: Path) -> None:
    log = JsonLines().build(place(tmp_path))
    picture = Picture(image=torch.zeros(3, 4, 4), caption='the word "字"')
    log.tell(Start(folder=tmp_path, step=0, steps=9, parameters=7, notes=("cpu",)))
    log.tell(done(1))
    log.tell(Evaluated(step=1, name="glyphs", scalars={"exact": 0.5}, pictures=(picture,), path=tmp_path / "a.png"))
    log.tell(Change(step=1, setting='sampler = "heun"'))
    log.tell(Saved(step=1, path=tmp_path / "x", seconds=0.5))
    log.tell(Ended(step=1, reason="SIGTERM", seconds=3.0, skipped={"too small": 2}, summary=("exact 0.5",)))
    found = lines(tmp_path)
    assert all(line.pop("timestamp").endswith("Z") for line in found)
    assert found == [
        {
            "event": "start",
            "resumed": False,
            "folder": str(tmp_path),
            "step": 0,
            "steps": 9,
            "parameters": 7,
            "notes": ["cpu"],
        },
        {
            "event": "step",
            "step": 1,
            "loss": 0.5,
            "lr": 1e-4,
            "grad_norm": 2.0,
            "samples": 8,
            "seconds": {"data": 0.1, "forward": 0.3},
            "parts": {"t<0.5": 0.25},
        },
        {
            "event": "evaluated",
            "step": 1,
            "name": "glyphs",
            "scalars": {"exact": 0.5},
            "captions": ['the word "字"'],
            "path": str(tmp_path / "a.png"),
        },
        {"event": "change", "step": 1, "setting": 'sampler = "heun"'},
        {"event": "saved", "step": 1, "path": str(tmp_path / "x"), "seconds": 0.5, "stall": 0.0},
        {
            "event": "ended",
            "step": 1,
            "reason": "SIGTERM",
            "seconds": 3.0,
            "skipped": {"too small": 2},
            "summary": ["exact 0.5"],
        },
    ]


def test_a_loss_is_read_back_bit_for_bit(tmp_path: Path) -> None:
    losses = torch.randn(200, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).exp().tolist()
    losses += [*torch.rand(200, generator=torch.Generator().manual_seed(1)).tolist(), 5e-324, 1e308, 0.1 + 0.2]
    log = JsonLines().build(place(tmp_path))
    for step, loss in enumerate(losses, 1):
        log.tell(done(step, loss))
    assert [line["loss"] for line in lines(tmp_path)] == losses


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_still_json(tmp_path: Path, value: float) -> None:
    JsonLines().build(place(tmp_path)).tell(done(1, value))
    text = (tmp_path / "log.jsonl").read_text()
    found = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert repr(float(found["loss"])) == repr(value)


def test_a_line_is_in_the_file_at_once(tmp_path: Path) -> None:
    log = JsonLines().build(place(tmp_path))
    log.tell(done(1))
    assert len(lines(tmp_path)) == 1
    log.tell(done(2))
    assert len(lines(tmp_path)) == 2


def test_a_resumed_run_goes_on_in_the_file_and_the_later_line_counts(tmp_path: Path) -> None:
    first = JsonLines().build(place(tmp_path))
    for step in (1, 2, 3):
        first.tell(done(step, 0.1 * step))
    second = JsonLines().build(place(tmp_path))
    second.tell(Start(folder=tmp_path, step=1, steps=9, parameters=7))
    second.tell(done(2, 20.0))
    found = lines(tmp_path)
    assert [line.get("resumed") for line in found if line["event"] == "start"] == [True]
    losses = {line["step"]: line["loss"] for line in found if line["event"] == "step"}
    assert losses[2] == 20.0


def test_a_torn_last_line_is_cut_off(tmp_path: Path) -> None:
    JsonLines().build(place(tmp_path)).tell(done(1))
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"event": "step", "ste')
    JsonLines().build(place(tmp_path)).tell(done(2))
    assert [line["step"] for line in lines(tmp_path)] == [1, 2]


def test_a_file_that_is_one_torn_line_is_emptied(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"eve')
    JsonLines().build(place(tmp_path)).tell(done(1))
    assert [line["step"] for line in lines(tmp_path)] == [1]


def test_structlogs_global_settings_neither_matter_nor_change(tmp_path: Path) -> None:
    try:
        structlog.configure(processors=[lambda *args: pytest.fail("the global processors were asked")])
        JsonLines().build(place(tmp_path)).tell(done(1))
        assert len(structlog.get_config()["processors"]) == 1
    finally:
        structlog.reset_defaults()
    JsonLines().build(place(tmp_path)).tell(done(2))
    assert not structlog.is_configured()
    assert len(lines(tmp_path)) == 2


def test_a_tracker_that_is_dropped_closes_its_file(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    log = JsonLines().build(place(tmp_path))
    assert len(os.listdir("/proc/self/fd")) == before + 1
    del log
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").symlink_to("/dev/full")
    log = JsonLines().build(place(tmp_path))
    with pytest.raises(QiError, match=r"log.jsonl: cannot be written \(No space left on device\); make room"):
        log.tell(done(1))


def test_a_file_that_cannot_be_opened_is_told(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").mkdir()
    with pytest.raises(QiError, match=r"log.jsonl: cannot be opened"):
        JsonLines().build(place(tmp_path))
