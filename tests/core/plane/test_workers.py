"""Worker processes that carry out orders: killed, hung, grown, and replaced. They are real, and so are the kills."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE, Popen

import pytest

from qi_core import QiError
from qi_core.packing import read
from qi_core.plane.body import Body
from qi_core.plane.process import Care
from qi_core.plane.workers import Workers
from support.producing import ILL, PROGRAM, SICK, SLOW, definition, ordered, portion_of, told

CARE = Care(workers=2, deadline=3.0, start=60.0, memory=512 << 20)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("workers")


@pytest.fixture(scope="module")
def workers(folder: Path) -> Iterator[Workers]:
    made = Workers([sys.executable, str(PROGRAM), "worker"], CARE)
    yield made
    made.close()
    assert made.alive() == 0


@pytest.fixture
def given(folder: Path) -> bytes:
    return definition(folder=str(folder)).encode()


def held(body: Body) -> list[tuple[str, int, str]]:
    content = bytearray(body.view)
    body.close()
    return told(read(memoryview(content)))


def test_orders_are_carried_out_and_files_used_again(workers: Workers, given: bytes) -> None:
    orders = [ordered(number) for number in range(6)]
    for _ in range(2):
        made = [workers.submit(order, given).result(60) for order in orders]
        assert [held(body) for body in made] == [told(portion_of(order)) for order in orders]


def test_one_that_cannot_be_carried_out_is_told_and_costs_no_worker(workers: Workers, given: bytes) -> None:
    before = workers.pids()
    with pytest.raises(QiError, match="no usable sample is left"):
        workers.submit(ordered(1, ILL), given).result(60)
    with pytest.raises(QiError, match="no such encoder"):
        workers.submit(ordered(1, spec="other"), definition(impossible=True).encode()).result(60)
    assert workers.pids() == before


def test_the_order_of_a_killed_worker_is_given_to_another(workers: Workers, folder: Path, given: bytes) -> None:
    order = ordered(7, SLOW)
    made = workers.submit(order, given)
    until = time.monotonic() + 20
    while not (folder / "slow").exists():  # it has begun
        assert time.monotonic() < until
        time.sleep(0.01)
    for pid in workers.pids():
        os.kill(pid, signal.SIGKILL)
    assert held(made.result(60)) == told(portion_of(order))
    assert workers.deaths()["was killed by signal 9"] >= 1


def test_what_ends_worker_after_worker_is_told_and_the_others_go_on(workers: Workers, given: bytes) -> None:
    """It hangs, then it takes all memory, then it crashes."""
    poison = workers.submit(ordered(20, SICK), given)
    others = [workers.submit(ordered(number), given) for number in range(21, 25)]
    assert [held(body.result(60)) for body in others] == [told(portion_of(ordered(n))) for n in range(21, 25)]
    with pytest.raises(QiError, match=r"portion 0 of step 20 ended 3 workers.* signal 11.*tickets \[40, 3\], \[41\]"):
        poison.result(60)
    assert {"took longer than 3 s", "grew beyond 512 MiB", "was killed by signal 11"} <= set(workers.deaths())


def test_workers_end_with_their_pool_however_it_ends(tmp_path: Path) -> None:
    program = (
        "import sys, time; from qi_core.plane.workers import *; w = Workers(sys.argv[1:], Care(workers=1)); "
        "w.ready('x', b'{\"name\": \"x\"}'); time.sleep(1); print(*w.pids(), flush=True); time.sleep(60)"
    )
    pool = Popen([sys.executable, "-c", program, sys.executable, str(PROGRAM), "worker"], stdout=PIPE, text=True)
    assert pool.stdout
    worker = int(pool.stdout.readline())
    pool.kill()
    pool.communicate()
    until = time.monotonic() + 10
    while Path(f"/proc/{worker}").exists() and "\nState:\tZ" not in Path(f"/proc/{worker}/status").read_text():
        assert time.monotonic() < until
        time.sleep(0.05)
