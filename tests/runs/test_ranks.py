"""A run of several processes, whatever happens to one of them: all end within a bounded time, with one line that says
what happened, and the run goes on from its last checkpoint with the same numbers, bit for bit."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from support.crew import Crew, Member, children, until_saved, until_step
from support.ranks import free_port
from support.small_run import RECIPE, losses, write_recipe

FSDP = RECIPE.replace('name = "single"', 'name = "fsdp"').replace("steps = 60", "steps = 30")
LONG = ("--set", "train.steps=100000")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe(tmp_path_factory.mktemp("recipe"), FSDP)


@pytest.fixture(scope="module")
def unbroken(crew: Crew, recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two ranks that nothing disturbed, started by hand."""
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    assert [rank.wait() for rank in crew.ranks("run", recipe, "--folder", folder)] == [0, 0]
    return folder


def told(member: Member) -> list[str]:
    """What a command said, without warnings of torch's."""
    return [line for line in member.lines if "Warning: " not in line and not line.startswith("  ")]


@pytest.mark.slow
def test_a_run_restarts_itself_and_then_tells_who_was_killed(
    crew: Crew, recipe: Path, unbroken: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    command = crew.start("run", recipe, "--folder", folder, "--nproc", "2", "--restarts", "1", *LONG)
    until_step(command, folder, 10)
    ranks = children(command.pid)
    assert sorted(ranks) == [0, 1]
    for rank in (1, 0):
        until_step(command, folder, 10 if rank else 24)
        until_saved(folder, 7 if rank else 21)
        began = time.monotonic()
        Member(children(command.pid)[rank], command.said, command.ended).kill()
        while rank and not told(command):
            time.sleep(0.01)
        assert time.monotonic() - began < 30
    assert command.wait() == 1
    first, last = told(command)
    assert "rank 1 was killed by SIGKILL" in first
    assert "the last good checkpoint is of step 7; the run goes on from there (restart 1 of 1)" in first
    assert "rank 0 was killed by SIGKILL; the last good checkpoint is of step 2" in last
    assert last.endswith(f"go on with: qi run {folder} --nproc 2")
    assert (folder / "logs" / "rank-1.txt").read_text().count("--- rank 1, process") == 2
    whole = losses(unbroken)  # of steps that were made twice, ``losses`` compares both
    assert {step: loss for step, loss in losses(folder).items() if step <= 24} == {
        step: loss for step, loss in whole.items() if step <= 24
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sent", "to", "code"), [(signal.SIGTERM, None, 0), (signal.SIGINT, None, 130), (signal.SIGTERM, 1, 0)]
)
def test_a_signal_ends_the_step_saves_and_stops_all(
    crew: Crew, recipe: Path, unbroken: Path, tmp_path: Path, sent: int, to: int | None, code: int
) -> None:
    folder = tmp_path / "run"
    command = crew.start("run", recipe, "--folder", folder, "--nproc", "2")
    until_step(command, folder, 8)
    command.kill(sent) if to is None else Member(children(command.pid)[to], command.said, command.ended).kill(sent)
    assert command.wait() == code
    assert told(command) == []
    done = max(losses(folder))
    assert done < 30
    assert (folder / "checkpoints" / f"step-{done:08d}").is_dir(), "what was done is saved"
    assert losses(folder) == {step: loss for step, loss in losses(unbroken).items() if step <= done}


def test_a_mistake_in_the_recipe_is_told_before_any_rank_starts(crew: Crew, recipe: Path, tmp_path: Path) -> None:
    command = crew.start("run", recipe, "--folder", tmp_path / "run", "--nproc", "2", "--set", "train.stps=3")
    assert command.wait() == 2
    assert command.lines == ["--set train.stps=3: train.stps: unknown key; did you mean 'steps'?"]
    command = crew.start("run", recipe, "--folder", tmp_path / "run", "--nproc", "2", "--set", "parallel=single")
    assert command.wait() == 2
    assert len(command.lines) == 1
    assert '"single" is one process, but 2 ranks were asked for' in command.lines[0]
    assert not (tmp_path / "run").exists()


def test_without_a_launcher_of_ours_the_others_end_too(crew: Crew, recipe: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    ranks = crew.ranks("run", recipe, "--folder", folder, *LONG)
    until_step(ranks[0], folder, 8)
    until_saved(folder, 7)
    ranks[0].kill()  # the one where they met
    assert ranks[1].wait(30) == 1
    (line,) = told(ranks[1])
    assert line.startswith("rank 1: another rank is gone or stands still (")
    assert line.endswith("; the last good checkpoint is of step 7; go on with the same command")


def test_a_rank_that_stands_still_is_found_and_told_with_stacks(crew: Crew, recipe: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    ranks = crew.ranks("run", recipe, "--folder", folder, *LONG, "--set", "parallel.timeout=5")
    until_step(ranks[0], folder, 3)
    ranks[1].kill(signal.SIGSTOP)
    assert ranks[0].wait(30) == 1
    (line,) = told(ranks[0])
    assert line.startswith("rank 0: no progress for 5 s in ")
    assert str(folder / "stacks" / "rank-0.txt") in line
    assert "qi_core/loop.py" in (folder / "stacks" / "rank-0.txt").read_text(), "where the loop stands"


def test_ranks_that_differ_are_told_once(crew: Crew, recipe: Path, tmp_path: Path) -> None:
    other = ("--set", "optimizer.lr=0.5", "--set", "train.batch=6")
    ranks = crew.ranks("run", recipe, "--folder", tmp_path / "run", own=((), other))
    assert [rank.wait() for rank in ranks] == [2, 2]
    (line,) = [line for rank in ranks for line in told(rank)]
    assert "ranks differ: beside rank 0 rank 1 has optimizer.lr: 0.001 -> 0.5 and 1 more; start all with" in line
    assert not (tmp_path / "run").exists()


def test_two_runs_never_share_a_folder(crew: Crew, recipe: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    first = crew.ranks("run", recipe, "--folder", folder, *LONG)
    until_step(first[0], folder, 1)
    ranks = crew.ranks("run", recipe, "--folder", folder)
    assert [rank.wait() for rank in ranks] == [2, 2]
    (line,) = [line for rank in ranks for line in told(rank)]
    assert "a run is already going on there" in line
    first[0].kill(signal.SIGTERM)
    assert [rank.wait() for rank in first] == [0, 0]


def test_ranks_that_do_not_come_are_told(crew: Crew, recipe: Path, tmp_path: Path) -> None:
    port = str(free_port())
    alone = {"RANK": "0", "MASTER_PORT": port}
    (rank,) = crew.ranks(
        "run", recipe, "--folder", tmp_path / "run", "--set", "parallel.timeout=2", own=((),), WORLD_SIZE="2", **alone
    )
    assert rank.wait(30) == 1
    (line,) = told(rank)
    assert f"rank 0 of 2: the ranks did not meet at 127.0.0.1:{port}" in line


def test_fresh_is_done_by_one_rank_for_all(crew: Crew, recipe: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for words in ((), ("--fresh",)):
        ranks = crew.ranks("run", recipe, "--folder", folder, "--set", "train.steps=3", *words)
        assert [rank.wait() for rank in ranks] == [0, 0], ranks[0].said.read_text()
    assert losses(tmp_path / "run.1") == losses(folder)


def test_exploding_gradients_stop_all_ranks_and_name_the_samples(crew: Crew, recipe: Path, tmp_path: Path) -> None:
    ranks = crew.ranks("run", recipe, "--folder", tmp_path / "run", *LONG, "--set", "train.spike=0.001")
    assert [rank.wait() for rank in ranks] == [2, 2]
    (line,) = [line for rank in ranks for line in told(rank)]
    assert "step 30: 20 updates in a row were left out" in line
    assert "from the samples train-116, train-117, train-118, train-119; " in line


def test_one_process_draws_from_a_run_of_several(crew: Crew, unbroken: Path, tmp_path: Path) -> None:
    drawn = crew.start("sample", unbroken, "A", "--output", tmp_path / "a.png")
    assert drawn.wait() == 0, drawn.lines
    assert (tmp_path / "a.png").is_file()


@pytest.mark.slow
def test_producers_serve_all_ranks_of_a_machine(crew: Crew, recipe: Path, unbroken: Path, tmp_path: Path) -> None:
    """One rank starts them, all call them, and what is trained on is the same to the bit."""
    ranks = crew.ranks("run", recipe, "--folder", tmp_path / "run", "--set", "data.engine=local")
    assert [rank.wait() for rank in ranks] == [0, 0]
    assert losses(tmp_path / "run") == losses(unbroken)


@pytest.mark.slow
def test_producers_may_take_longer_to_start_than_a_step_may(crew: Crew, recipe: Path, tmp_path: Path) -> None:
    socket = f"unix:{tmp_path / 'producer'}"
    remote = ("--set", f'data.engine={{name="remote", producers=["{socket}"]}}', "--set", "train.steps=2")
    ranks = crew.ranks("run", recipe, "--folder", tmp_path / "run", *remote, "--set", "parallel.timeout=3")
    deadline = time.monotonic() + 60
    while not (tmp_path / "run" / "stacks" / "rank-0.txt").exists():  # it waits for samples soon
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(5)
    crew.start("produce", "--socket", tmp_path / "producer", "--processes", "1")
    assert [rank.wait() for rank in ranks] == [0, 0], ranks[0].lines
    assert len(losses(tmp_path / "run")) == 2
