"""The tracker "console": one line that moves on a terminal, plain whole lines elsewhere."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from rich.console import Console as Screen

from qi_core import Change, Ended, Evaluated, Place, Saved, Start, StepDone
from qi_plugins.tracker_console import qi_trackers
from qi_plugins.tracker_console.component import Console
from qi_plugins.tracker_console.console import LiveConsole, count, duration, number

LONG = Path("/a/long/path/that/is/much/longer/than/the/eighty/columns/of/a/terminal/that/is/no/terminal/grid.png")


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr("time.monotonic", lambda: self.now)


def plain(every_seconds: float = 0.0) -> tuple[LiveConsole, io.StringIO]:
    out = io.StringIO()
    return LiveConsole(Screen(file=out, highlight=False), every_seconds), out


def start(step: int = 0, steps: int = 100) -> Start:
    return Start(folder=Path("runs/a"), step=step, steps=steps, parameters=2_512_000, notes=("device: cpu",))


def done(step: int, loss: float = 0.51234) -> StepDone:
    seconds = {"data": 0.1, "encode": 0.1, "forward": 0.8, "backward": 0.9, "step": 0.1}
    return StepDone(step=step, loss=loss, lr=1e-4, grad_norm=2.0, samples=64, seconds=seconds)


def test_the_hook_gives_it() -> None:
    assert qi_trackers() == {"console": Console}


def test_it_is_built_for_the_output_of_the_process(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = Place(device=torch.device("cpu"), dtype=torch.float32, seed=0, folder=tmp_path)
    Console().build(place).tell(start())
    assert capsys.readouterr().out == "runs/a starts: 100 steps, 2.5M trained parameters\n  device: cpu\n"


def test_a_line_of_progress_says_how_far_how_well_how_fast_how_long_and_where_the_time_goes() -> None:
    console, out = plain()
    console.tell(start())
    console.tell(done(1))
    assert out.getvalue().splitlines()[-1] == (
        "  1/100  loss 0.5123  32 images/s  ETA 3:18  data 5% encode 5% forward 40% backward 45% step 5%"
    )


def test_elsewhere_than_on_a_terminal_lines_come_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    console, out = plain(every_seconds=10)
    console.tell(start(steps=25))
    for step in range(1, 26):
        clock.now += 1
        console.tell(done(step))
    shown = [int(line.split("/")[0]) for line in out.getvalue().splitlines()[2:]]
    assert shown == [1, 11, 21, 25]  # the first and the last always


def test_no_control_characters_and_no_broken_lines_elsewhere_than_on_a_terminal() -> None:
    console, out = plain()
    console.tell(start())
    console.tell(done(1))
    console.tell(Evaluated(step=1, name="glyphs", scalars={"exact": 0.9714}, path=LONG))
    console.tell(Change(step=1, setting='sampler = "heun [not markup]"'))
    console.tell(Saved(step=1, path=LONG, seconds=0.26))
    text = out.getvalue()
    assert "\x1b" not in text
    assert "\r" not in text
    assert text.splitlines()[3:] == [
        f"step 1  glyphs: exact 0.9714  {LONG}",
        'step 1  set sampler = "heun [not markup]"',
        f"step 1  saved {LONG} in 0.3 s",
    ]


def test_the_end_says_why_what_was_skipped_and_the_summary_last() -> None:
    console, out = plain()
    console.tell(start(step=40))
    console.tell(Ended(step=60, reason="SIGINT", seconds=3723, skipped={"too small": 2}, summary=("exact 0.97",)))
    assert out.getvalue().splitlines() == [
        "runs/a goes on after step 40: 100 steps, 2.5M trained parameters",
        "  device: cpu",
        "stopped by SIGINT at step 60 of 100 after 1:02:03",
        "  skipped 2: too small",
        "exact 0.97",
    ]


def test_on_a_terminal_one_line_is_redrawn_and_removed_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    out = io.StringIO()
    screen = Screen(file=out, force_terminal=True, width=60, highlight=False, legacy_windows=False)
    console = LiveConsole(screen, 10)
    console.tell(start())
    for step in (1, 2, 3):
        console.tell(done(step))  # no time goes by: only the first is drawn
    clock.now += 1
    console.tell(done(4))
    console.tell(Saved(step=4, path=Path("x"), seconds=1.0))
    console.tell(Ended(step=4, reason="done", seconds=1.0))
    text = out.getvalue()
    assert [step for step in (1, 2, 3, 4) if f"  {step}/100" in text] == [1, 4]
    assert "…" in text  # cut to the width of the terminal, never broken into two lines
    assert "step 4  saved x in 1.0 s" in text
    assert text.index("\x1b[?25l") < text.rindex("\x1b[?25h") < text.index("done at step 4")  # the cursor is back


def test_a_run_that_dies_gives_the_cursor_back(monkeypatch: pytest.MonkeyPatch) -> None:
    at_exit: list[object] = []
    monkeypatch.setattr("atexit.register", at_exit.append)
    out = io.StringIO()
    console = LiveConsole(Screen(file=out, force_terminal=True, width=60, legacy_windows=False), 10)
    console.tell(start())
    console.tell(done(1))
    (stop,) = at_exit
    stop()  # type: ignore[operator]
    assert out.getvalue().rindex("\x1b[?25h") > out.getvalue().rindex("\x1b[?25l")


def test_figures_are_short() -> None:
    assert [number(value) for value in (0.01234, 3.14159, 31.4159, 314.159, 3141.59)] == [
        "0.0123",
        "3.14",
        "31.4",
        "314",
        "3142",
    ]
    assert [count(value) for value in (512, 2_512_000, 20_430_000_000)] == ["512", "2.5M", "20.4B"]
    assert [duration(value) for value in (0, 65, 3723, 59.7)] == ["0:00", "1:05", "1:02:03", "1:00"]
