"""Checkpoints of runs of several ranks: killed anywhere they go on bit for bit, another layout goes on with them,
and who takes weights out of them gets what a single process would have saved."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from qi_plugins.store_folder.component import Folder
from support import ranks as processes
from support.crew import Crew, until_step
from support.small_run import RECIPE, here, losses, write_recipe

STEPS = 24
FSDP = RECIPE.replace('name = "single"', 'name = "fsdp"').replace("steps = 60", f"steps = {STEPS}")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe(tmp_path_factory.mktemp("recipe"), FSDP.replace("save_every = 7", "save_every = 2"))


@pytest.fixture(scope="module")
def unbroken(crew: Crew, recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two ranks that nothing disturbed."""
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    assert [rank.wait() for rank in crew.ranks("run", recipe, "--folder", folder)] == [0, 0]
    return folder


def tensors(folder: Path) -> dict[str, bytes]:
    """All of the last checkpoint, whole."""
    saved = Folder().build(folder).load().tensors
    return {f"{group}/{name}": saved[group][name].numpy().tobytes() for group in saved for name in saved[group]}


@pytest.mark.slow
def test_killed_in_steps_and_saves_it_goes_on_bit_for_bit(
    crew: Crew, recipe: Path, unbroken: Path, tmp_path: Path
) -> None:
    folder, chance = tmp_path / "run", random.Random(3)
    for step in (3, 9, 14, 19):
        ranks = crew.ranks("run", recipe, "--folder", folder)
        until_step(ranks[0], folder, step)
        time.sleep(chance.random() * 0.1)  # anywhere in the steps and saves that follow
        for rank in ranks:
            rank.kill()
        for rank in ranks:
            rank.wait()
    assert [rank.wait() for rank in crew.ranks("run", recipe, "--folder", folder)] == [0, 0]
    assert losses(folder) == losses(unbroken)
    assert tensors(folder) == tensors(unbroken)
    assert not list((folder / "checkpoints").glob(".writing-*")), "what killed ranks left is swept"


@pytest.mark.slow
def test_a_single_process_goes_on_with_what_two_ranks_saved_and_they_with_its(
    crew: Crew, recipe: Path, unbroken: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"

    def ranks(step: int) -> list[int]:
        words = ("run", recipe, "--folder", folder, "--set", f"train.steps={step}")
        return [rank.wait() for rank in crew.ranks(*words)]

    assert ranks(8) == [0, 0]
    here("run", recipe, "--folder", folder, "--set", "parallel=single", "--set", "train.steps=16")
    assert ranks(STEPS) == [0, 0]
    assert losses(folder) == pytest.approx(losses(unbroken), rel=1e-5)


@pytest.mark.slow
def test_what_is_exported_is_to_the_byte_what_a_single_process_saves(unbroken: Path, tmp_path: Path) -> None:
    single = tmp_path / "single"
    shutil.copytree(unbroken, single, ignore=shutil.ignore_patterns("checkpoints"))
    path = Folder().build(single).save(Folder().build(unbroken).load())
    assert [file.name for file in (path / "ema").iterdir()] == ["ema.safetensors"]
    for name, folder in (("a", unbroken), ("b", single)):
        here("export", folder, tmp_path / name)
    one, other = (
        {
            file.relative_to(tmp_path / name): file.read_bytes()
            for file in (tmp_path / name).rglob("*")
            if file.is_file()
        }
        for name in ("a", "b")
    )
    assert one == other
    assert any(file.suffix == ".safetensors" for file in one)


@pytest.mark.slow
def test_ranks_and_one_process_share_the_denoiser_that_an_adapter_adapts(
    crew: Crew, recipe: Path, tmp_path: Path
) -> None:
    lora = ("--set", 'adapter={name="lora",rank=2,targets=["*"]}')
    alone, folder = tmp_path / "alone", tmp_path / "run"
    here("run", recipe, "--folder", alone, *lora, "--set", "parallel=single", "--set", "train.steps=6")
    for step in (2, 4):
        ranks = crew.ranks("run", recipe, "--folder", folder, *lora, "--set", f"train.steps={step}")
        assert [rank.wait() for rank in ranks] == [0, 0]
    here("run", recipe, "--folder", folder, *lora, "--set", "parallel=single", "--set", "train.steps=6")
    assert losses(folder) == pytest.approx(losses(alone), rel=1e-5)
    assert tensors(folder / "base") == tensors(alone / "base"), "it is written once, and by the first rank"


@pytest.mark.slow
def test_a_checkpoint_of_another_architecture_is_told_once(
    crew: Crew, recipe: Path, unbroken: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(unbroken, folder)
    more = ("--set", "denoiser.layers=3", "--set", "train.steps=30")
    ranks = crew.ranks("run", recipe, "--folder", folder, *more)
    assert [rank.wait() for rank in ranks] == [2, 2]
    lines = [line for rank in ranks for line in rank.lines if "another architecture" in line]
    assert len(lines) == 1
    assert "denoiser.layers: 2 -> 3" in lines[0]
    assert tensors(folder) == tensors(unbroken)


def killed(folder: str) -> None:
    """Two steps and a save, a third step and a save in which rank 0 is killed when half of its weights are written."""
    from qi_core import checkpoint
    from qi_core.tensorfiles import write
    from qi_plugins.store_folder import store as module

    run = begin()
    live = Folder().build(Path(folder), run.strategy.team)
    processes.steps(run, 2)
    live.save(checkpoint.take(run))
    processes.steps(run, 1)
    live.wait()

    def half(chunks: Iterator[Any]) -> Iterator[Any]:
        for number, chunk in enumerate(chunks):
            if number == 20:
                os.kill(os.getpid(), signal.SIGKILL)
            yield chunk

    def fatal(path: Path, chunks: Iterator[Any]) -> Any:
        return write(path, half(chunks) if path.name.startswith("rank-00000") else chunks)

    module.write = fatal  # type: ignore[attr-defined]
    live.save(checkpoint.take(run))
    live.wait()


def begin() -> Any:
    from qi_plugins.parallel_fsdp.component import Fsdp

    return processes.make(Fsdp(device="cpu", precision="fp32", threads=1).build(), processes.Case())


def gone_on(folder: str) -> tuple[processes.Seen, processes.Seen]:
    """The last two steps of an unbroken run, and those from the newest checkpoint; then a save that sweeps."""
    from qi_core import checkpoint

    unbroken = begin()
    processes.steps(unbroken, 2)
    run = begin()
    live = Folder().build(Path(folder), run.strategy.team)
    checkpoint.give_back(run, live.load())
    found = processes.steps(unbroken, 2), processes.steps(run, 2)
    live.save(checkpoint.take(run))
    live.wait()
    return found


@pytest.mark.slow
def test_when_rank_0_is_killed_in_a_save_nothing_is_lost(tmp_path: Path) -> None:
    with pytest.raises(AssertionError) as told:
        processes.together(2, killed, str(tmp_path))
    assert "rank 0 ended with 9" in str(told.value)
    assert "LostError" in str(told.value)
    assert "a rank was lost while the checkpoint of step 3 was written" in str(told.value)
    names = sorted(os.listdir(tmp_path / "checkpoints"))
    assert names[1:] == ["step-00000002"]
    assert names[0].startswith(".writing-step-00000003-")
    for unbroken, found in processes.together(2, gone_on, str(tmp_path)):
        assert (unbroken.losses, unbroken.norms) == (found.losses, found.norms)
        for one, other in ((unbroken.weights, found.weights), (unbroken.optimizer, found.optimizer)):
            assert one.keys() == other.keys()
            pairs = [pair for name in one for pair in zip(one[name], other[name], strict=True)]
            assert all(torch.equal(a.tensor, b.tensor) for a, b in pairs)
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["step-00000002", "step-00000004"]
