"""A run stopped at any point goes on as if it had never stopped: the same losses, bit for bit."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from qi_core import loop
from support.crew import Crew, until_step
from support.small_run import RECIPE, environment, here, losses, steps, wait_for_step, write_recipe


@pytest.fixture(scope="module")
def unbroken(crew: Crew, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("unbroken")
    crew.qi("run", write_recipe(folder), "--folder", folder / "run")
    return folder / "run"


def weights(folder: Path, name: str) -> dict[str, bytes]:
    """Every tensor of the last checkpoint's file, as bytes."""
    last = sorted((folder / "checkpoints").glob("step-*"))[-1]
    return {key: tensor.numpy().tobytes() for key, tensor in load_file(last / name / f"{name}.safetensors").items()}


@pytest.mark.slow
def test_kill_9_ten_times_over(crew: Crew, unbroken: Path, tmp_path: Path) -> None:
    recipe, folder = write_recipe(tmp_path), tmp_path / "run"
    chance = random.Random(5)
    for step in sorted(chance.sample(range(2, 58), 10)):
        process = crew.start("run", recipe, "--folder", folder)
        wait_for_step(process, folder, step)
        time.sleep(chance.random() * 0.02)  # anywhere in the steps and saves that follow
        process.kill()
        process.wait()
    crew.qi("run", recipe, "--folder", folder)
    assert losses(folder) == losses(unbroken)
    for name in ("model", "ema", "optimizer"):
        assert weights(folder, name) == weights(unbroken, name)


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_ends_the_step_saves_and_stops(
    crew: Crew, unbroken: Path, tmp_path: Path, sent: signal.Signals, code: int
) -> None:
    recipe, folder = write_recipe(tmp_path), tmp_path / "run"
    process = crew.start("run", recipe, "--folder", folder)
    until_step(process, folder, 10)
    process.kill(sent)
    assert process.wait() == code, process.lines
    done = int(str(steps(folder)[-1]["step"]))
    assert (folder / "checkpoints" / f"step-{done:08d}").is_dir(), "what was done is saved"
    assert done < 60
    crew.qi("run", folder)  # the folder of a run is enough to go on
    assert losses(folder) == losses(unbroken)


def test_who_is_told_to_stop_saves_and_draws_nothing_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An evaluation may take longer than the time until it is killed."""
    monkeypatch.setattr(loop, "agree", lambda run, signals: ("SIGTERM" * (run.step == 2), False))
    draws = ("--set", 'preview.prompts=["A"]', "--set", "preview.every=1")
    here("run", write_recipe(tmp_path), "--folder", tmp_path / "run", *draws)
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000002"]
    assert [path.name for path in (tmp_path / "run" / "pictures").iterdir()] == ["preview-0000001.png"]


def test_a_half_written_checkpoint_is_never_taken(crew: Crew, unbroken: Path, tmp_path: Path) -> None:
    recipe, folder = write_recipe(tmp_path), tmp_path / "run"
    crew.qi("run", recipe, "--folder", folder, "--set", "train.steps=21")
    newest = folder / "checkpoints" / "step-00000021"
    (newest / "checkpoint.json").unlink()  # as a power cut might leave it
    out = crew.qi("run", recipe, "--folder", folder)
    assert steps(folder)[21]["step"] == 15, out
    assert losses(folder) == losses(unbroken)


def test_a_damaged_checkpoint_is_told_by_name(crew: Crew, tmp_path: Path) -> None:
    recipe, folder = write_recipe(tmp_path), tmp_path / "run"
    crew.qi("run", recipe, "--folder", folder, "--set", "train.steps=14")
    file = folder / "checkpoints" / "step-00000014" / "model" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    told = crew.qi("run", recipe, "--folder", folder, code=2)
    assert "model.safetensors" in told
    assert len(told.strip().splitlines()) == 1


def test_a_checkpoint_of_another_architecture_is_refused(crew: Crew, tmp_path: Path) -> None:
    recipe, folder = write_recipe(tmp_path), tmp_path / "run"
    crew.qi("run", recipe, "--folder", folder, "--set", "train.steps=7")
    told = crew.qi("run", recipe, "--folder", folder, "--set", "denoiser.layers=3", code=2)
    assert "denoiser.layers: 2 -> 3" in told
    assert "--fresh" in told
    told = crew.qi("run", recipe, "--folder", tmp_path / "next", "--set", f"init={folder}", "--set", "denoiser.heads=4",
              "--set", "denoiser.head_dim=16", code=2)  # fmt: skip
    assert "misshapen" in told


def test_two_runs_never_share_a_folder(crew: Crew, tmp_path: Path) -> None:
    recipe, folder = write_recipe(tmp_path), tmp_path / "run"
    process = crew.start("run", recipe, "--folder", folder, "--set", "train.steps=100000")
    until_step(process, folder, 1)
    told = crew.qi("run", recipe, "--folder", folder, code=2)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert "already going on" in told


def test_a_later_stage_starts_from_the_averaged_weights(crew: Crew, unbroken: Path, tmp_path: Path) -> None:
    folder = tmp_path / "next"
    crew.qi("run", write_recipe(tmp_path), "--folder", folder, "--set", f"init={unbroken}", "--set", "train.steps=1",
       "--set", "optimizer.lr=1e-30")  # fmt: skip
    assert weights(folder, "model") == weights(unbroken, "ema")


def test_fresh_sets_the_old_run_aside(crew: Crew, tmp_path: Path) -> None:
    recipe, folder = write_recipe(tmp_path), tmp_path / "run"
    for words in ((), ("--fresh",)):
        crew.qi("run", recipe, "--folder", folder, "--set", "train.steps=3", *words)
    assert losses(tmp_path / "run.1") == losses(folder)


def test_a_full_disk_in_the_middle_of_a_save_loses_nothing(crew: Crew, unbroken: Path, tmp_path: Path) -> None:
    recipe, folder = write_recipe(tmp_path), tmp_path / "run"
    crew.qi("run", recipe, "--folder", folder, "--set", "train.steps=14")
    before = sorted(path.name for path in (folder / "checkpoints").iterdir())
    # A file may not grow beyond 40 kB: the log still fits, the weights don't.
    limited = f"ulimit -f 40; exec {sys.executable} -m qi_registry.cli run {recipe} --folder {folder}"
    process = subprocess.run(["bash", "-c", limited], env=environment(), capture_output=True, text=True, check=False)
    assert process.returncode == 2, process.stderr
    assert len(process.stderr.strip().splitlines()) == 1, process.stderr
    assert "was not saved" in process.stderr
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == before, "nothing half-written stays"
    crew.qi("run", recipe, "--folder", folder)
    assert losses(folder) == losses(unbroken)


CURRICULUM = """
[source]
name = "stages"
[[source.stages]]
samples = 70
source = {{ name = "rendered-text", height = 16, width = 32, lengths = [1, 2] }}
[[source.stages]]
[source.stages.source]
name = "mixture"
[[source.stages.source.parts]]
source = {{ name = "rendered-text", height = 16, width = 32, alphabet = "chinese", lengths = [1, 1] }}
[[source.stages.source.parts]]
source = {{ name = "images", path = "{path}", side = 16, flip = true, crop = "random" }}
"""


def write_curriculum(folder: Path) -> Path:
    """Stages, the second a mixture with pictures from files, one of which breaks off; micro-batches; previews."""
    pictures = folder / "data"
    pictures.mkdir()
    for i in range(7):
        noise = np.random.default_rng(i).integers(0, 256, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(noise).save(pictures / f"{i}.png")
        (pictures / f"{i}.txt").write_text(f"noise {i}", encoding="utf-8")
    whole = (pictures / "3.png").read_bytes()
    (pictures / "3.png").write_bytes(whole[: len(whole) // 2])  # the header is sound, so it is found out in mid-run
    head, rest = RECIPE.split("[source]")
    text = head + "[sampler]" + rest.split("[sampler]")[1]
    text = text.replace("batch = 4", "batch = 4\naccumulate = 2") + "every = 5\nprompts = ['the word \"HI\"', 'noise']"
    return write_recipe(folder, text + CURRICULUM.format(path=pictures))


@pytest.mark.slow
def test_kill_9_in_a_curriculum_with_files_micro_batches_and_previews(crew: Crew, tmp_path: Path) -> None:
    recipe, folder, unbroken = write_curriculum(tmp_path), tmp_path / "run", tmp_path / "unbroken"
    crew.qi("run", recipe, "--folder", unbroken)
    for step in (16, 29, 47):  # about where the second stage begins, and in different epochs of the files
        process = crew.start("run", recipe, "--folder", folder)
        until_step(process, folder, step)
        process.kill()
        assert process.wait() == -signal.SIGKILL, "it was killed, and had not ended by itself"
    crew.qi("run", recipe, "--folder", folder)
    assert losses(folder) == losses(unbroken)
    assert len(losses(folder)) == 60
    for name in ("model", "ema", "optimizer"):
        assert weights(folder, name) == weights(unbroken, name)
    (told,) = (folder / "skipped.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(told)["key"] == "1/1/3.png", "of the second stage's second part"
    drawn, wanted = (
        {path.name: path.read_bytes() for path in (run / "pictures").iterdir()} for run in (folder, unbroken)
    )
    assert len(wanted) == 12
    assert drawn == wanted
