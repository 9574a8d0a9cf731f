"""Producers that are killed, for real, while a trainer pulls from them: every portion comes once and is right."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from collections import deque
from pathlib import Path

import pytest

from qi_core.plane.client import Care, Puller
from support.producing import PROGRAM, definition, ordered, portion_of, told

KILLS = 3


def producer(path: Path) -> subprocess.Popen[str]:
    words = [sys.executable, str(PROGRAM), "producer", str(path), "0.02"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == f"unix:{path}\n"
    return process


@pytest.mark.slow
def test_kills_of_producers_lose_nothing_and_double_nothing(tmp_path: Path) -> None:
    paths = [tmp_path / "one", tmp_path / "two"]
    running = [producer(path) for path in paths]
    puller = Puller([f"unix:{path}" for path in paths], care=Care(window=4, timeout=60.0), define=definition)
    over = threading.Event()

    def kill() -> None:
        chance = random.Random(0)
        for _ in range(KILLS):
            time.sleep(chance.uniform(0.1, 0.3))
            which = chance.randrange(2)
            running[which].kill()
            running[which].communicate()
            running[which] = producer(paths[which])
        over.set()

    killer = threading.Thread(target=kill)
    killer.start()
    ahead, number, after = deque(puller.order(ordered(n)) for n in range(4)), 0, 20
    while after:
        assert told(ahead.popleft().result(60)) == told(portion_of(ordered(number)))
        ahead.append(puller.order(ordered(number + 4)))
        number, after = number + 1, after - over.is_set()
    assert [told(each.result(60)) for each in ahead] == [told(portion_of(ordered(number + i))) for i in range(4)]
    killer.join()
    counted = puller.counted()
    puller.close()
    assert sum(each.portions for each in counted) == number + 4
    assert sum(each.gone for each in counted) >= 1
    assert all(each.portions for each in counted)
    for process in running:
        process.kill()
        process.communicate()
