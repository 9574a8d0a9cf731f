"""``qi data annotate``: the command as a user runs it, killed and started again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from qi_core import Place
from qi_plugins.source_images.images import Images
from qi_registry import cli
from support.seer import annotation, seer, shown

CAPTION = "A plain square of one even colour, seen from straight ahead in flat light, number {}."


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "red").mkdir(parents=True)
    for number in range(24):
        Image.new("RGB", (64, 64), (10 * number, 0, 0)).save(folder / "red" / f"{number:02}.png")
        (folder / "red" / f"{number:02}.txt").write_text(f"raw {number}")
    return folder


def number(body: dict[str, Any]) -> int:
    return round(np.asarray(shown(body))[..., 0].mean() / 10)


def good(body: dict[str, Any]) -> str:
    return annotation(CAPTION.format(number(body)))


def annotated(*words: object) -> int:
    return cli.main(["data", "annotate", *map(str, words)])


def test_a_folder_becomes_a_jsonl_that_a_run_trains_on(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QI_ANNOTATE_KEY", "secret")
    out = tmp_path / "annotations.jsonl"

    def say(body: dict[str, Any]) -> str:
        return "I cannot describe this." if number(body) == 7 else good(body)

    with seer(say, key="secret") as url:
        assert annotated(photos, "--endpoint", url, "--model", "seer", "-o", out, "--price", 1, 10, "--asks", 2) == 0
    told = capsys.readouterr()
    assert "23 annotations (23 new); 2500 + 500 tokens, 0.01 spent" in told.out
    assert "1  a refusal" in told.out.split("annotations.failed.jsonl:")[1]
    assert "24 of 24; 1 failed; 2 answers would not do" in told.err
    first = json.loads(out.read_text().splitlines()[0])
    assert first["category"] == "red"
    (tmp_path / "run").mkdir()
    place = Place(device=torch.device("cpu"), dtype=torch.float32, seed=0, folder=tmp_path / "run")
    source = Images(path=str(out), side=64).build(place, 16)
    prompts = {sample.prompt for sample in source.draw(23)}
    assert prompts == {CAPTION.format(n) for n in range(24) if n != 7}


def test_a_recipe_names_the_pictures(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.toml").write_text(
        'extends = "pretrain.toml"\n[source]\nname = "mixture"\n'
        f'[[source.parts]]\nweight = 1\nsource = {{ name = "images", path = "{photos}" }}\n'
    )
    out = tmp_path / "a.jsonl"
    with seer(good) as url:
        words = (tmp_path / "mine.toml", "--endpoint", url, "--model", "seer", "-o", out, "--limit", 5)
        assert annotated(*words) == 0
    assert len(out.read_text().splitlines()) == 5, capsys.readouterr()


def test_it_may_be_killed_at_any_moment_and_goes_on_without_asking_twice(photos: Path, tmp_path: Path) -> None:
    """Three kills in the middle; only what was in flight at a kill may be asked for again."""
    asked: Counter[int] = Counter()

    def say(body: dict[str, Any]) -> str:
        asked[number(body)] += 1
        time.sleep(0.02)
        return good(body)

    out = tmp_path / "a.jsonl"
    kills = 0
    with seer(say) as url:
        words = ["data", "annotate", str(photos), "--endpoint", url, "--model", "seer", "-o", str(out)]
        command = [sys.executable, "-m", "qi_registry.cli", *words, "--in-flight", "2"]
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            have = out.read_bytes().count(b"\n") if out.exists() else 0
            process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)
            if kills == 3:
                assert process.wait(timeout=60) == 0
                break
            while process.poll() is None and (not out.exists() or out.read_bytes().count(b"\n") < have + 4):
                time.sleep(0.005)
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
    images = [json.loads(line)["image"] for line in out.read_text().splitlines()]
    assert sorted(images) == [f"photos/red/{n:02}.png" for n in range(24)], "each once, none lost"
    assert kills == 3
    assert max(asked.values()) <= 1 + kills
    assert asked.total() <= 24 + 2 * kills, "what was in flight, and no more"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--model", "sear"], "has no model 'sear'; it has seer; set --model to one of them"),
        (["--endpoint", "ftp://x"], "'url' is 'ftp://x'; wanted http://HOST:PORT"),
        (["--key-env", "QI_NO_SUCH_KEY"], "QI_NO_SUCH_KEY: holds nothing"),
        (["--prompt", "/dev/null"], "is empty; wanted the prompt that asks for an annotation"),
        (["--side", "2"], "--side must be 64 at least"),
        (["--shortest", "600"], "captions of 600 to 500 words"),
        (["--asks", "0"], "'asks' must be > 0"),
    ],
)
def test_what_cannot_work_is_told_in_one_line_before_anything_is_asked(
    photos: Path, tmp_path: Path, words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with seer(lambda _: pytest.fail("asked")) as url:
        assert annotated(photos, "--endpoint", url, "--model", "seer", "-o", tmp_path / "a.jsonl", *words) == 2
    err = capsys.readouterr().err
    assert told in err
    assert err.count("\n") == 1


def test_where_there_are_no_pictures_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    words = ("--endpoint", "http://127.0.0.1:9/v1", "--model", "seer", "--retries", 0)
    assert annotated(tmp_path / "empty", *words) == 2
    assert "no pictures there (seen: no file at all)" in capsys.readouterr().err
    (tmp_path / "text.toml").write_text('extends = "pretrain.toml"\n')
    assert annotated(tmp_path / "text.toml", *words) == 2
    assert "no source of it has pictures in files" in capsys.readouterr().err
