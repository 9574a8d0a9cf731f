"""Samples that end whoever makes them are found and avoided; who is killed from outside blames nobody.

Processes are real, and so are the kills.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest

from qi_core import QiError
from qi_core.plane import trial
from qi_core.plane.body import Body
from qi_core.plane.process import KILLS, TOO_LARGE, TOO_LONG, Care
from qi_core.plane.trial import STRIKES
from qi_core.plane.workers import SUSPECT, Workers
from qi_core.portions import Order
from support.deadly import LATER, PROGRAM, definition


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    made = Workers([sys.executable, str(PROGRAM)], Care(workers=1, deadline=2.0, memory=200 << 20))
    yield made
    made.close()


def order(spec: str, *numbers: int, step: int = 0) -> Order:
    return Order(spec=spec, step=step, number=0, tickets=tuple((n,) for n in numbers), slots=tuple(range(len(numbers))))


def answer(made: Future[Body]) -> str:
    error = made.exception(200)
    assert isinstance(error, QiError)
    assert str(error).encode(), "it goes over the wire, whatever the key is made of"
    return str(error).replace("\\udcff", "")


def test_one_that_kills_is_found_wherever_it_comes_and_avoided_from_then_on(
    workers: Workers, capfd: pytest.CaptureFixture[str]
) -> None:
    """It stands in for one that stands in for 2, neither of which can be used."""
    deadly = 2 + 2 * LATER
    given = definition(unusable=[2, 2 + LATER], kills=[deadly])
    assert answer(workers.submit(order("killed", 1, 2, 3), given)) == f"{deadly} {KILLS}"
    assert f"'{deadly}\\udcff' {KILLS} (a worker was killed by signal 9, twice)" in capfd.readouterr().err
    before = workers.deaths()
    assert before == {"was killed by signal 9": SUSPECT + 1 + STRIKES}, "in company as well, which does not count"
    assert answer(workers.submit(order("killed", deadly, step=1), given)) == f"{deadly} {KILLS}"
    assert workers.deaths() == before


def test_one_that_hangs_and_one_that_takes_all_memory_are_told_as_what_they_are(workers: Workers) -> None:
    told = answer(workers.submit(order("hung", 2, 3), definition(hangs=[2], hoards=[3])))
    assert told == f"2 {TOO_LONG}; 3 {TOO_LARGE}"


def test_who_is_killed_from_outside_blames_nobody(workers: Workers, tmp_path: Path) -> None:
    """Whoever makes it is, until its samples are tried alone; and once more then."""
    marks, killed = tmp_path / "marks", set[str]()
    made = workers.submit(order("outside", 1), definition(seconds=0.5, marks=str(marks)))
    until = time.monotonic() + 100
    while len(killed) < SUSPECT + 1 and time.monotonic() < until:
        for pid in set(marks.read_text().split() if marks.exists() else ()) - killed:
            os.kill(int(pid), signal.SIGKILL)
            killed.add(pid)
        time.sleep(0.01)
    assert answer(made) == "none was avoided"


def test_what_no_sample_does_alone_ends_the_run_in_the_end(workers: Workers) -> None:
    told = answer(workers.submit(order("together", 1, 2, 3), definition(together=2)))
    assert "(tickets [1], [2], [3]) do not when they are made alone" in told
    assert "make data.portion smaller" in told


def test_where_one_after_another_kills_it_is_no_sample(workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "MOST", 2)
    told = answer(workers.submit(order("all", 1), definition(kills=list(range(1, 2000, LATER)))))
    assert f"2 samples of portion 0 of step 0 ended every worker that made them, the last, '{1 + LATER}'" in told
