"""Which of several processes this one is, as its launcher says. Without torch, so that it can be asked early."""

from __future__ import annotations

import os
import re
from typing import NamedTuple

from qi_core.errors import QiError

LAUNCHERS = (
    ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),
)
"""What torchrun and Ray set, and srun. Not SLURM_NTASKS: a batch script has it too, and is one process."""
FIRST_PORT, PORTS = 15000, 15000
"""Where ranks of a Slurm job meet: a port by the job's number, below those that Linux gives away (32768)."""


class Seat(NamedTuple):
    """Which of several processes this one is."""

    rank: int = 0
    ranks: int = 1
    local_rank: int = 0
    """Among those of this machine: the GPU that it takes."""


def seat() -> Seat:
    """From the environment: of ``qi run --nproc``, torchrun and Ray (RANK, WORLD_SIZE, LOCAL_RANK), or of Slurm's srun.

    Raises QiError where they say something that cannot be.
    """
    for rank, ranks, local in LAUNCHERS:
        if ranks in os.environ and rank in os.environ:
            try:
                found = Seat(*(int(os.environ.get(name, "0")) for name in (rank, ranks, local)))
            except ValueError as error:
                raise QiError(f"{rank}, {ranks}, {local}: numbers were wanted ({error}); see to the launcher") from None
            if not 0 <= found.rank < found.ranks:
                raise QiError(f"{rank} is {found.rank} of {ranks} = {found.ranks}; see to the launcher")
            return found
    return Seat()


def meeting() -> tuple[str, int]:
    """Host and port where the ranks meet: of rank 0, as the launcher says; for Slurm the first host of the step."""
    hosts = os.environ.get("SLURM_STEP_NODELIST", "") if "RANK" not in os.environ else ""
    job = os.environ.get("SLURM_JOB_ID", "") if hosts else ""
    host = os.environ.get("MASTER_ADDR") or first_host(hosts) or "127.0.0.1"
    port = os.environ.get("MASTER_PORT") or str(FIRST_PORT + int(job) % PORTS if job.isdigit() else 29531)
    if not port.isdigit():
        raise QiError(f"MASTER_PORT is {port!r}; a number was wanted; see to the launcher")
    return host, int(port)


def first_host(hosts: str) -> str:
    """Of Slurm's way to write a list: ``gpu[03-05,09],login`` begins with ``gpu03``."""
    found = re.match(r"([^,\[]*)(?:\[(\w+)[^\]]*\]([^,\[]*))?", hosts)
    return "".join(part or "" for part in found.groups()) if found else ""
