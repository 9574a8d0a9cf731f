from __future__ import annotations

import signal
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from qi_core import QiError
from qi_core.lastword import leave
from qi_registry import launch
from qi_registry.agent import culprit


class Recipe:
    """A recipe, of which only the strategy matters."""

    def __init__(self, parallel: Any) -> None:
        self.parallel = parallel


class Pairwise:
    """A strategy of an even number of ranks."""

    def layout(self, ranks: int) -> Any:
        if ranks % 2:
            raise QiError(f"{ranks} ranks; an even number was wanted")


def wanted(**options: Any) -> launch.Launch | None:
    usual: dict[str, Any] = {
        "recipe": "tiny.toml", "set": [], "folder": None, "fresh": False, "nproc": None, "restarts": 0, "nnodes": 1,
        "node_rank": 0, "address": "",
    }  # fmt: skip
    return launch.wanted(Namespace(**usual | options), Recipe(Pairwise()), Path("runs/tiny"))  # type: ignore[arg-type]


def test_without_options_the_process_trains_itself() -> None:
    assert wanted() is None


def test_a_rank_gets_the_command_without_what_is_the_launchers() -> None:
    found = wanted(nproc=4, restarts=2, set=["train.steps=3", "seed=1"], folder="runs/tiny", fresh=True)
    assert found is not None
    assert (found.nproc, found.restarts) == (4, 2)
    assert found.words == ("run", "tiny.toml", "--set", "train.steps=3", "--set", "seed=1", "--folder", "runs/tiny",
                           "--fresh")  # fmt: skip


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"nproc": 0}, "--nproc 0: at least 1"),
        ({"nproc": 2, "restarts": -1}, "--restarts -1: at least 0"),
        ({"nproc": 2, "nnodes": 2, "node_rank": 2, "address": "a:1"}, "--node-rank 2: 0 to 1"),
        ({"nproc": 2, "nnodes": 2}, "--address is not set: HOST:PORT"),
        ({"nproc": 2, "nnodes": 2, "address": "a"}, "--address a: HOST:PORT"),
        ({"nproc": 2, "address": "a:1"}, "--address a:1: where several machines meet"),
        ({"nproc": 3}, "3 ranks; an even number was wanted"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_starts(options: dict[str, Any], why: str) -> None:
    with pytest.raises(QiError, match=why):
        wanted(**options)


def failures(folder: Path, *ends: tuple[int, str, int]) -> dict[int, ProcessFailure]:
    """Of ranks 0, 1, ...: exit code, kind of last word, and when."""
    found = {}
    for rank, (code, kind, when) in enumerate(ends):
        path = folder / f"{rank}.json"
        if kind:
            leave(str(path), "because", kind)
        found[rank] = ProcessFailure(local_rank=rank, pid=1, exitcode=code, error_file=str(path))
        found[rank].timestamp = when
    return found


KILL, TERM = -signal.SIGKILL, -signal.SIGTERM


@pytest.mark.parametrize(
    ("ends", "first"),
    [
        ([(1, "lost", 7), (KILL, "", 8)], 1),  # who was killed is to blame, not who found the connection broken
        ([(TERM, "", 7), (1, "lost", 7), (1, "", 7)], 2),  # a crash
        ([(2, "mistake", 9), (1, "lost", 9)], 0),
        ([(KILL, "", 60), (1, "hang", 20)], 1),  # the agent has killed who did not answer, after half a minute
        ([(1, "hang", 20), (KILL, "", 20)], 1),  # killed at once: the other had nobody left to wait for
        ([(TERM, "", 7), (1, "lost", 7)], 1),  # the agent ended rank 0; rank 1 says at least what it saw
    ],
)
def test_one_rank_is_to_blame(tmp_path: Path, ends: list[tuple[int, str, int]], first: int) -> None:
    assert culprit(failures(tmp_path, *ends)) == first


@pytest.mark.parametrize(
    ("limits", "asked"),
    [((1024, 4096), [(4096, 4096)]), ((1024, -1), [(65536, -1)]), ((100_000, 200_000), []), ((-1, -1), [])],
)
def test_ranks_may_have_a_connection_to_every_other(
    monkeypatch: pytest.MonkeyPatch, limits: tuple[int, int], asked: list[tuple[int, int]]
) -> None:
    found = list[tuple[int, int]]()
    monkeypatch.setattr("resource.getrlimit", lambda _: limits)
    monkeypatch.setattr("resource.setrlimit", lambda _, wanted: found.append(wanted))
    launch.allow_connections()
    assert found == asked
