from __future__ import annotations

import pytest

from qi_core import QiError
from qi_core.seat import Seat, first_host, meeting, seat

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS",
         "SLURM_LOCALID", "SLURM_STEP_NODELIST", "SLURM_JOB_ID")  # fmt: skip


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch) -> object:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)

    def say(**variables: str) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return say


def test_a_process_that_nobody_launched_is_alone(say: object) -> None:
    assert seat() == Seat(rank=0, ranks=1, local_rank=0)
    assert meeting()[0] == "127.0.0.1"


def test_torchrun_and_ray_say_who_it_is(say) -> None:  # type: ignore[no-untyped-def]
    say(RANK="5", WORLD_SIZE="8", LOCAL_RANK="1", MASTER_ADDR="one", MASTER_PORT="77", SLURM_PROCID="0",
        SLURM_STEP_NUM_TASKS="2")  # fmt: skip
    assert seat() == Seat(rank=5, ranks=8, local_rank=1)
    assert meeting() == ("one", 77)


def test_srun_says_it_too_and_where_to_meet(say) -> None:  # type: ignore[no-untyped-def]
    say(SLURM_PROCID="3", SLURM_STEP_NUM_TASKS="4", SLURM_LOCALID="1")
    say(SLURM_STEP_NODELIST="gpu[03-05,9]", SLURM_JOB_ID="31")
    assert seat() == Seat(rank=3, ranks=4, local_rank=1)
    assert meeting() == ("gpu03", 15031)


def test_a_batch_script_is_one_process_however_many_tasks_its_job_has(say, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    say(SLURM_PROCID="0", SLURM_LOCALID="0")
    monkeypatch.setenv("SLURM_NTASKS", "8")
    assert seat().ranks == 1


@pytest.mark.parametrize(
    ("rank", "ranks", "why"), [("2", "2", "RANK is 2 of WORLD_SIZE = 2"), ("x", "2", "numbers were wanted")]
)
def test_what_cannot_be_is_refused(say, rank: str, ranks: str, why: str) -> None:  # type: ignore[no-untyped-def]
    say(RANK=rank, WORLD_SIZE=ranks)
    with pytest.raises(QiError, match=why):
        seat()


@pytest.mark.parametrize(
    ("hosts", "first"),
    [("login", "login"), ("a,b", "a"), ("gpu[03-05,9]", "gpu03"), ("n[1,2]-ib,x", "n1-ib"), ("", "")],
)
def test_the_first_of_slurms_hosts(hosts: str, first: str) -> None:
    assert first_host(hosts) == first
