"""A trainer that is killed at random moments, most in the middle of a pull, trains on each sample once an epoch.

``QI_CONSUMER_KILLS=100 pytest tests/runs/test_consumer_kills.py -s`` kills it a hundred times, in some five minutes.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from support.crew import Crew, Member
from support.noting import noted, pulling
from support.small_run import losses, of_files, steps, write_recipe

KILLS = int(os.environ.get("QI_CONSUMER_KILLS", "2"))
COUNT, BATCH = 22, 6
"""Pictures, of which an epoch ends in the middle of a batch."""


@pytest.mark.slow
@pytest.mark.timeout(60 + 10 * KILLS)
def test_kills_of_the_trainer_lose_double_and_change_nothing(
    crew: Crew, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It goes on from the position that its last checkpoint holds, one after each step. The producer is ``qi produce``,
    whose answers the killed ones no longer fetch."""
    recipe = write_recipe(tmp_path, of_files(pictures(tmp_path / "data"), BATCH, save_every=1))
    producer = crew.start("produce", "--port", "0", "--processes", "1")
    folder, whole, pulls, chance = tmp_path / "run", tmp_path / "whole", tmp_path / "notes.pulls", random.Random(3)
    words: list[str | Path] = ["run", recipe, "--folder", folder, "--set", engine(producer)]

    def begin(last: int) -> Member:
        return crew.start(*words, "--set", f"train.steps={last}", env={"QI_NOTES": str(tmp_path / "notes")})

    caught = Counter[str]()
    took(begin(1))
    restart = took(begin(2))
    for number in range(KILLS):
        pulls.unlink(missing_ok=True)
        trainer = begin(1_000_000)
        time.sleep(chance.uniform(0.3 * restart, 2 * restart))
        deadline = time.monotonic() + 60
        while number % 3 and not pulling(pulls) and time.monotonic() < deadline:
            time.sleep(0.001)
        assert trainer.poll() is None, trainer.said.read_text()
        trainer.kill()
        trainer.wait()
        caught["in a pull" if pulling(pulls) else "elsewhere"] += 1
    last = max(losses(folder)) + 5
    assert begin(last).wait() == 0
    crew.qi("run", recipe, "--folder", whole, "--set", f"train.steps={last}", "--set", "train.save_every=0")

    assert sorted(losses(folder)) == list(range(1, last + 1))
    assert losses(folder) == losses(whole), "and a step that was done again had the same loss: bit for bit"
    found = noted(tmp_path / "notes")
    seats = [seat for step in sorted(found) for seat in found[step]]
    for start in range(0, len(seats), COUNT):
        epoch = seats[start : start + COUNT]
        assert {seat.epoch for seat in epoch} == {start // COUNT}
        assert len({seat.key for seat in epoch}) == len(epoch) == min(COUNT, len(seats) - start)
    for name in ("model", "ema", "optimizer"):
        file = f"checkpoints/step-{last:08d}/{name}/{name}.safetensors"
        assert (folder / file).read_bytes() == (whole / file).read_bytes()
    assert caught["in a pull"] >= KILLS // 2
    again = len(steps(folder)) - last
    with capsys.disabled():
        print(f"\n{KILLS} kills ({dict(caught)}): {last} steps, {len(seats)} samples, {again} steps done again")


def took(first: Member) -> float:
    """Seconds to its end."""
    began = time.monotonic()
    assert first.wait() == 0, first.said.read_text()
    return time.monotonic() - began


def engine(producer: Member) -> str:
    """How to reach it, when it is there."""
    deadline = time.monotonic() + 60
    while not producer.said.exists() or "token in" not in producer.said.read_text():
        assert producer.poll() is None, producer.said.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    line = producer.lines[0]
    token = line.partition("(token in ")[2].rstrip(")")
    return f'data.engine={{name="remote", producers=["{line.split()[0]}"], token_file="{token}"}}'


def pictures(folder: Path) -> Path:
    """Large enough that a portion takes longer to make than a step."""
    folder.mkdir()
    for number in range(COUNT):
        noise = np.random.default_rng(number).integers(0, 256, (240, 250, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{number:02}.png")
        (folder / f"{number:02}.txt").write_text(f"picture {number}")
    return folder
