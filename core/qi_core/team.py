"""The processes of a run: who they are, and how they tell each other small things.

What is told goes over gloo, apart from the collectives of the training step, and only between processes of one run.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from attrs import frozen

from qi_core.errors import QiError

T = TypeVar("T")

PATIENCE = timedelta(hours=24)
"""Of talk between ranks: one may judge pictures for an hour while the others wait. Steps have a watch of their own."""


class Alone:
    """``qi_core.parallel.Team`` of one process."""

    rank, ranks = 0, 1

    def gather(self, item: T) -> list[T]:
        """See ``Team``."""
        return [item]

    def send(self, item: T) -> T:
        """See ``Team``."""
        return item

    def apart(self) -> Alone:
        """See ``Team``."""
        return self


class Ranks:
    """``qi_core.parallel.Team`` of the processes that torch.distributed has joined."""

    def __init__(self) -> None:
        self.rank, self.ranks = dist.get_rank(), dist.get_world_size()
        self._group = dist.new_group(backend="gloo", timeout=PATIENCE)

    def gather(self, item: T) -> list[T]:
        """See ``Team``."""
        found: list[Any] = [None] * self.ranks
        dist.all_gather_object(found, item, group=self._group)
        return cast("list[T]", found)

    def send(self, item: T) -> T:
        """See ``Team``."""
        told: list[Any] = [item]
        dist.broadcast_object_list(told, src=0, group=self._group)
        return cast("T", told[0])

    def apart(self) -> Ranks:
        """See ``Team``."""
        return Ranks()


@frozen
class Seat:
    """Which of several processes this one is, as its launcher says."""

    rank: int = 0
    ranks: int = 1
    local_rank: int = 0
    """Among those of this machine: the GPU that it takes."""


def seat() -> Seat:
    """From the environment: of ``qi run --nproc``, torchrun and Ray (RANK, WORLD_SIZE, LOCAL_RANK), or of Slurm's srun.

    Raises QiError where they say something that cannot be.
    """
    for rank, ranks, local in (("RANK", "WORLD_SIZE", "LOCAL_RANK"), ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID")):
        if ranks in os.environ and rank in os.environ:
            try:
                found = Seat(*(int(os.environ.get(name, "0")) for name in (rank, ranks, local)))
            except ValueError as error:
                raise QiError(f"{rank}, {ranks}, {local}: numbers were wanted ({error}); see to the launcher") from None
            if not 0 <= found.rank < found.ranks:
                raise QiError(f"{rank} is {found.rank} of {ranks} = {found.ranks}; see to the launcher")
            return found
    return Seat()


def refuse_company(name: str) -> None:
    """Raises QiError if this is one of several processes, for a strategy of one."""
    if (ranks := seat().ranks) > 1:
        raise QiError(
            f"parallel: {name!r} is for one process, but {ranks} were started; "
            "use --set parallel=fsdp (or megatron), or start one"
        )


def join(device: torch.device, timeout: float) -> Ranks:
    """Meet the other ranks: nccl between GPUs, gloo between CPUs. ``timeout``: seconds that a collective may take.

    Raises QiError where they don't come.
    """
    if not dist.is_initialized():
        here = seat()
        os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
        os.environ.setdefault("MASTER_PORT", "29531")
        try:
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
                rank=here.rank,
                world_size=here.ranks,
                timeout=timedelta(seconds=timeout),
                device_id=device if device.type == "cuda" else None,
            )
        except (dist.DistError, RuntimeError, ValueError) as error:
            raise QiError(
                f"rank {here.rank} of {here.ranks}: the ranks did not meet at {os.environ['MASTER_ADDR']}:"
                f"{os.environ['MASTER_PORT']} ({error}); see that all were started, with one address and port"
            ) from error
    return Ranks()
