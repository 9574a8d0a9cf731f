"""Runs that learn from what they draw: killed in the middle of a rollout or of its updates, they go on to the bit."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from safetensors.torch import load_file

from support.crew import Crew, until_step
from support.rl_plugin import install
from support.small_run import RECIPE, losses, steps, write_recipe

ROLLOUTS = """[source]
name = "rollouts"
groups = 4
group = 4
passes = 2
chunk = 8
sampler = { name = "wandering", steps = 4, window = { length = 2, moves = "random" } }
guidance = { scale = 2.0 }
[source.prompts]
name = "rendered-text"
height = 16
width = 32
lengths = [1, 2]
[[source.rewards]]
name = "bright"
reward = "shine"
[train]
steps = 24
batch = 4
accumulate = 2
save_every = 3
ema = 0.9
spike = 10.0
evaluate_first = true
[[evaluation]]
name = "reward"
every = 6
count = 4
prompts = { name = "rendered-text", height = 16, width = 32, lengths = [1, 2], split = "held-out" }
rewards = [{ name = "bright", reward = "shine" }]
"""
GRPO = """objective = { name = "grpo", guidance = "rollout", beta = 0.1 }"""
UPDATES = 8
"""Of a rollout: 16 pictures, twice, 4 at once."""


def recipe(folder: Path, source: str = ROLLOUTS, objective: str = 'objective = "reinforce"') -> Path:
    before, after = RECIPE.replace('objective = "flow-matching"', objective).split("[source]")
    after = "[sampler]" + after.partition("[sampler]")[2]
    after = re.sub(r"\[train\].*?(?=\[preview\])", "", after, flags=re.DOTALL)
    return write_recipe(folder, before + after + source)


@pytest.fixture(scope="module")
def crew(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crew]:
    """Who know the plugin too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", install(tmp_path_factory.mktemp("plugin")))
        with Crew(tmp_path_factory.mktemp("crew")) as crew:
            yield crew


def evaluated(folder: Path) -> dict[int, dict[str, float]]:
    """Figures of the evaluation by step; those of one that was made twice must be the same."""
    found: dict[int, dict[str, float]] = {}
    for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines():
        with suppress(json.JSONDecodeError):  # cut off by a kill
            record = json.loads(line)
            if record["event"] == "evaluated":
                assert found.setdefault(record["step"], record["scalars"]) == record["scalars"]
    return found


def weights(folder: Path, step: int) -> dict[str, bytes]:
    """Every tensor of a checkpoint but the pictures, as bytes."""
    path = folder / "checkpoints" / f"step-{step:08d}"
    found = {
        f"{name}/{key}": tensor.numpy().tobytes()
        for name in ("model", "ema", "reference", "optimizer")
        if (path / name).is_dir()
        for key, tensor in load_file(path / name / f"{name}.safetensors").items()
    }
    assert any(name.startswith("model/") for name in found), f"{path}: no weights"
    return found


@pytest.mark.slow
def test_kill_9_in_rollouts_and_updates(crew: Crew, tmp_path: Path) -> None:
    path = recipe(tmp_path, ROLLOUTS.replace("wandering", "exact-sde"), GRPO)
    folder, unbroken = tmp_path / "run", tmp_path / "unbroken"
    crew.qi("run", path, "--folder", unbroken)
    # After a rollout's last update the next one is being drawn; else an update is going on. Checkpoints fall between.
    for step in (2, UPDATES, UPDATES + 5, 2 * UPDATES):
        process = crew.start("run", path, "--folder", folder)
        until_step(process, folder, step)
        process.kill()
        assert process.wait() == -signal.SIGKILL, "it was killed, and had not ended by itself"
    crew.qi("run", path, "--folder", folder)
    assert len(losses(folder)) == 24
    assert losses(folder) == losses(unbroken)
    assert weights(folder, 24) == weights(unbroken, 24)
    assert weights(folder, 24) != weights(unbroken, 21), "it learns"
    assert evaluated(folder) == evaluated(unbroken)
    assert ["wins" in figures for figures in evaluated(unbroken).values()] == [False, True, True, True, True]


@pytest.mark.slow
def test_all_rewards_equal_moves_nothing(crew: Crew, tmp_path: Path) -> None:
    equal = ROLLOUTS.replace('reward = "shine"', 'reward = { name = "shine", same = true }')
    folder = tmp_path / "run"
    told = crew.qi("run", recipe(tmp_path, equal), "--folder", folder, "--set", "train.steps=9",
              "--set", "optimizer.weight_decay=0.1")  # fmt: skip
    assert weights(folder, 9) == weights(folder, 3)
    assert set(losses(folder).values()) == {0.0}
    (last,) = steps(folder)[-1:]
    assert "groups with equal rewards" in (folder / "log.jsonl").read_text(), told
    assert last["parts"]["rollout/reward"] == 0.5  # type: ignore[index]
    assert last["parts"]["rollout/ties"] == 1.0  # type: ignore[index]
    assert "left out" not in told.replace("rollout/left out", ""), "no update was refused"


@pytest.mark.slow
def test_what_was_drawn_is_judged_by_the_weights_that_drew_it(crew: Crew, tmp_path: Path) -> None:
    """The replayed log-probability of a rollout's first update is the recorded one; later ones have drifted."""
    folder = tmp_path / "run"
    path = recipe(tmp_path, ROLLOUTS.replace("guidance = { scale = 2.0 }", ""))
    crew.qi("run", path, "--folder", folder, "--set", "train.steps=16", "--set", "optimizer.lr=1e-2")
    drift = [float(record["parts"]["drift"]) for record in steps(folder)]  # type: ignore[index]
    assert max(drift[0], drift[UPDATES]) < 1e-5
    assert min(drift[3:UPDATES]) > 1e-3


@pytest.mark.slow
def test_other_ranks_go_on_in_the_middle_of_a_rollout(crew: Crew, tmp_path: Path) -> None:
    """With pictures that one process drew two learn on, and then draw the next ones themselves."""
    path = recipe(tmp_path, ROLLOUTS.replace("wandering", "exact-sde"), GRPO)
    folder, unbroken = tmp_path / "run", tmp_path / "unbroken"
    crew.qi("run", path, "--folder", unbroken, "--set", "train.steps=10")
    crew.qi("run", path, "--folder", folder, "--set", "train.steps=3")
    fsdp = ("--set", "parallel.name=fsdp", "--set", "parallel.device=cpu", "--nproc", "2")
    crew.qi("run", folder, *fsdp, "--set", "train.steps=10")
    assert losses(folder) == pytest.approx(losses(unbroken), rel=1e-5, abs=1e-6)
    assert evaluated(folder)[6] == evaluated(unbroken)[6]
    drawn, wanted = (
        {key: value for key, value in steps(run)[-1]["parts"].items() if "seconds" not in key}  # type: ignore[attr-defined]
        for run in (folder, unbroken)
    )
    assert drawn == pytest.approx(wanted, rel=1e-3, abs=1e-4)
