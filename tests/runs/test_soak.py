"""A run whose trainer, producer server and workers are killed at random moments trains as an undisturbed one does.

``QI_SOAK=300 pytest tests/runs/test_soak.py -s`` kills ten of each, over at least so many seconds.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from support.noting import Seat, noted
from support.small_run import environment, losses, of_files, steps, write_recipe

SECONDS = float(os.environ.get("QI_SOAK", "0"))
KILLS = 10 if SECONDS else 1
"""Of each kind."""
LOCAL, LONG = "data.engine='local'", 600.0
GOOD, POISON = 40, ("bomb.png", "dark.png", "strip.png", "text.png", "torn.png", "wordless.png")
BATCH = 6
FILTER = """[[data.filters]]
name = "luma"
least = 0.2"""


@pytest.mark.slow
@pytest.mark.timeout(600 + 10 * SECONDS)
def test_kills_at_random_moments_change_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every loss is that of an unbroken run inline, bit for bit; every sample comes once an epoch, none lost, none
    doubled, but those that stand in for poisoned ones."""
    recipe = write_recipe(tmp_path, of_files(pictures(tmp_path / "data"), BATCH, 25, 'checked = "drawn"', FILTER))
    folder, whole = tmp_path / "soak", tmp_path / "whole"
    killed, last = soak(recipe, folder)
    ends = [run(recipe, folder, LOCAL, f"train.steps={last}"), run(recipe, whole, f"train.steps={last}")]
    assert [end.wait(LONG) for end in ends] == [0, 0], beside(folder, "log").read_text()

    assert losses(folder) == losses(whole)
    assert sorted(losses(folder)) == list(range(1, last + 1))
    found = noted(beside(folder, "notes"))
    assert found == noted(beside(whole, "notes"))
    seats = [seat for step in sorted(found) for seat in found[step]]
    once_an_epoch(seats)
    assert [listed(each) for each in (folder, whole)] == [sorted(POISON)] * 2
    assert counted(folder) == counted(whole)
    for name in ("model", "ema", "optimizer"):
        file = f"checkpoints/step-{last:08d}/{name}/{name}.safetensors"
        assert (folder / file).read_bytes() == (whole / file).read_bytes()
    assert not list(alive(folder)), "none of the processes outlives the run"
    again = len(steps(folder)) - last
    with capsys.disabled():
        told = ", ".join(f"{count} {name}" for name, count in killed.items())
        print(f"\nsoak: {last} steps, {len(seats)} samples, {again} steps done again; killed: {told}")


def soak(recipe: Path, folder: Path) -> tuple[dict[str, int], int]:
    """A run, disturbed: how many were killed of each kind, and a step that it has not come to yet."""
    chance = random.Random(8)
    victims = ["worker", "server", "trainer"] * KILLS
    chance.shuffle(victims)
    pause = 2 * SECONDS / len(victims)
    trainer, killed, last = run(recipe, folder, LOCAL, "train.steps=1000000"), dict.fromkeys(victims, 0), 0
    try:
        for victim in victims:
            last = goes_on(trainer, folder, last + chance.randrange(1, 30))
            time.sleep(chance.uniform(0.0, pause or 0.5))
            assert trainer.poll() is None, beside(folder, "log").read_text()
            os.kill(trainer.pid if victim == "trainer" else one_of(victim, trainer, chance), signal.SIGKILL)
            killed[victim] += 1
            if victim == "trainer":
                trainer.wait(LONG)
                trainer = run(recipe, folder, LOCAL, "train.steps=1000000")
        last = goes_on(trainer, folder, last + 20)
    finally:
        trainer.kill()
        trainer.wait(LONG)
    return killed, max(losses(folder)) + 30


def once_an_epoch(seats: list[Seat]) -> None:
    """Each entry has one seat in each epoch, and sits there itself unless it is poison."""
    count = GOOD + len(POISON)
    assert len(seats) > 3 * count
    for start in range(0, len(seats) - count + 1, count):
        epoch = seats[start : start + count]
        assert {seat.epoch for seat in epoch} == {start // count}
        assert sorted(seat.number for seat in epoch) == list(range(count))
        assert {NAMES[seat.number] for seat in epoch if NAMES[seat.number] != seat.key} == set(POISON)
        assert not {seat.key for seat in epoch} & set(POISON)


NAMES = sorted((*(f"{number:02}.png" for number in range(GOOD)), *POISON))
"""In the order in which they are found."""


def pictures(folder: Path) -> Path:
    """Good ones and poison."""
    folder.mkdir()
    for number, name in enumerate(NAMES):
        noise = np.random.default_rng(number).integers(64, 256, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(noise // (8 if name == "dark.png" else 1)).save(folder / name)
        (folder / name).with_suffix(".txt").write_text("" if name == "wordless.png" else f"picture {name[:2]}")
    Image.new("RGB", (50_000, 2)).save(folder / "strip.png")
    (folder / "text.png").write_text("no picture")
    (folder / "torn.png").write_bytes((folder / "torn.png").read_bytes()[:2000])
    header = b"IHDR" + struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    (folder / "bomb.png").write_bytes(bomb + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT")))
    return folder


def run(recipe: Path, folder: Path, *settings: str) -> subprocess.Popen[bytes]:
    """Its notes and what it prints are kept beside its folder."""
    words = [word for setting in settings for word in ("--set", setting)]
    command = [sys.executable, "-m", "support.noting", beside(folder, "notes"), "run", recipe, "--folder", folder]
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    with beside(folder, "log").open("ab") as log:
        environ = {**environment(), "PYTHONPATH": path}
        return subprocess.Popen([*map(str, command), *words], env=environ, stdout=log, stderr=log)


def beside(folder: Path, suffix: str) -> Path:
    return folder.with_suffix(f".{suffix}")


def goes_on(trainer: subprocess.Popen[bytes], folder: Path, step: int) -> int:
    """Wait for a step; which one is the last then."""
    deadline, log = time.monotonic() + LONG, folder / "log.jsonl"
    while time.monotonic() < deadline and trainer.poll() is None:
        if log.exists():
            with log.open("rb") as file:  # of a log that grows long, its end
                file.seek(max(log.stat().st_size - 4000, 0))
                last = [int(number) for number in re.findall(rb'^{"step": (\d+), "loss"', file.read(), re.MULTILINE)]
            if last and last[-1] >= step:
                return last[-1]
        time.sleep(0.02)
    raise AssertionError(f"step {step} was not reached: {beside(folder, 'log').read_text()}")


def one_of(kind: str, trainer: subprocess.Popen[bytes], chance: random.Random) -> int:
    """A server is the trainer's child, a worker the server's; one that has just been killed is started again."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and trainer.poll() is None:
        table = processes()
        servers = [pid for pid, (parent, words) in table.items() if parent == trainer.pid and " produce " in words]
        workers = [pid for pid, (parent, _) in table.items() if parent in servers]
        if found := sorted(servers if kind == "server" else workers):
            return chance.choice(found)
        time.sleep(0.02)
    raise AssertionError(f"no {kind} was there to be killed")


def processes() -> dict[int, tuple[int, str]]:
    """Parent and command line, by process."""
    table = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    rows = (line.split(None, 2) for line in table.splitlines())
    return {int(row[0]): (int(row[1]), row[2]) for row in rows if len(row) == 3}


def alive(folder: Path) -> Iterator[str]:
    """Processes that belong to the run, after they had time to end."""
    deadline = time.monotonic() + 15
    while (left := [words for _, words in processes().values() if str(folder) in words]) and (
        time.monotonic() < deadline
    ):
        time.sleep(0.1)
    yield from left


def counted(folder: Path) -> dict[str, int]:
    """What could not be used, by reason, as often as it was met."""
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()[-1:]]
    found: dict[str, int] = records[-1]["skipped"]
    assert len(found) == len(POISON)
    return found


def listed(folder: Path) -> list[str]:
    """Keys of what could not be used, as they are listed."""
    lines = (folder / "skipped.jsonl").read_text(encoding="utf-8").splitlines()
    return sorted(json.loads(line)["key"] for line in lines)
