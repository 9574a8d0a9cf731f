from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

STUCK_IN_C = "import re; re.match('(a+)+$', 'a' * 60 + 'b')"
"""Backtracks for ages, and lets no other thread of Python run."""


def watched(folder: Path, code: str, timeout: float = 0.3) -> tuple[int, str, str]:
    """Exit code, what was said, and what is in the file of stacks, if there is one."""
    head = f"""
import sys, time
from pathlib import Path
from qi_core.watch import Watch
def forward_pass():
    time.sleep(60)
with Watch(Path(sys.argv[1]), 3, {timeout}) as watch:
    watch.see("forward")
"""
    lines = head + "".join(f"    {line}\n" for line in code.splitlines())
    done = subprocess.run(
        [sys.executable, "-c", lines, str(folder)], capture_output=True, text=True, timeout=30, check=False
    )
    stacks = folder / "stacks" / "rank-3.txt"
    return done.returncode, done.stderr, stacks.read_text() if stacks.exists() else ""


def test_a_rank_that_makes_no_progress_tells_where_it_stands_and_ends(tmp_path: Path) -> None:
    code, said, stacks = watched(tmp_path, "forward_pass()")
    assert code == 1
    assert said.startswith("rank 3: no progress for 0.3 s in 'forward' of a step, at <string>:6 in forward_pass")
    assert len(said.splitlines()) == 1
    assert str(tmp_path / "stacks" / "rank-3.txt") in said
    assert "in forward_pass" in stacks
    assert "in _give_up" in stacks, "every thread is there"


def test_it_ends_too_when_no_thread_of_python_can_run(tmp_path: Path) -> None:
    began = time.monotonic()
    code, _, stacks = watched(tmp_path, STUCK_IN_C)
    assert code == 1
    assert "Timeout" in stacks
    assert "in match" in stacks
    assert time.monotonic() - began < 20


@pytest.mark.parametrize(
    "code", ["watch.rest()\ntime.sleep(2)", "for _ in range(20):\n    watch.see('x'); time.sleep(0.1)"]
)
def test_a_save_may_take_long_and_so_may_a_step_that_goes_on(tmp_path: Path, code: str) -> None:
    assert watched(tmp_path, code, timeout=1.5) == (0, "", "")
    assert list(tmp_path.iterdir()) == [], "nothing is left of a watch that was not needed"


def test_without_a_timeout_there_is_no_watch(tmp_path: Path) -> None:
    assert watched(tmp_path, "time.sleep(0.5)", timeout=0) == (0, "", "")
