"""The processes of a run: who they are, and how they tell each other small things.

What is told goes over gloo, apart from the collectives of the training step, and only between processes of one run.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import time
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from qi_core.errors import LostError, QiError
from qi_core.seat import Seat, meeting, seat

if TYPE_CHECKING:
    from torch import Tensor

    from qi_core.parallel import Team

__all__ = ["Alone", "Ranks", "Seat", "by_first", "join", "leave", "lost", "refuse_company", "seat"]

T = TypeVar("T")

PATIENCE = timedelta(hours=24)
"""Of talk between ranks: one may judge pictures for an hour while the others wait. Steps have a watch of their own."""
MARGIN = 10.0
"""Seconds that torch gives a collective beyond half as much again as the watch."""
SMALL = 1 << 16
"""Bytes of a rank that are told to all in one collective; more go rank by rank, without room for more than there is."""
LINGER = 2.0
"""Seconds that rank 0 stays after an error, so that others can see that it was told."""
_boards: list[Store] = []
"""Where the ranks met, once they have."""


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
        self._group: Any = dist.new_group(backend="gloo", timeout=PATIENCE)

    def gather(self, item: T) -> list[T]:
        """See ``Team``."""
        own = torch.frombuffer(bytearray(pickle.dumps(item)), dtype=torch.uint8)
        told = self._gather(torch.tensor([len(own)]))
        sizes = [int(size) for size in told]
        if max(sizes) <= SMALL:
            padded = self._gather(torch.nn.functional.pad(own, (0, max(sizes) - len(own))))
            found = [each[:size] for each, size in zip(padded, sizes, strict=True)]
        else:  # padded, the one picture of one rank would be as large as a picture of each
            found = [
                own if rank == self.rank else torch.empty(size, dtype=own.dtype) for rank, size in enumerate(sizes)
            ]
            for rank, each in enumerate(found):
                dist.broadcast(each, rank, group=self._group)
        return [cast("T", pickle.loads(each.numpy().data)) for each in found]

    def _gather(self, values: Tensor) -> list[Tensor]:
        """Of all ranks, equally many from each."""
        found = [torch.empty_like(values) for _ in range(self.ranks)]
        dist.all_gather(found, values, group=self._group)
        return found

    def send(self, item: T) -> T:
        """See ``Team``."""
        told: list[Any] = [item]
        dist.broadcast_object_list(told, src=0, group=self._group)
        return cast("T", told[0])

    def apart(self) -> Ranks:
        """See ``Team``."""
        return Ranks()


def refuse_company(name: str) -> None:
    """Raises QiError if this is one of several processes, for a strategy of one."""
    if (ranks := seat().ranks) > 1:
        raise QiError(
            f"parallel: {name!r} is for one process, but {ranks} were started; "
            "use --set parallel=fsdp (or megatron), or start one"
        )


def join(device: torch.device, timeout: float) -> Ranks:
    """Meet the other ranks: nccl between GPUs, gloo between CPUs. ``timeout``: seconds that meeting may take. A
    collective may take somewhat longer, so that the watch over steps, which tells more, comes first.

    Raises LostError where they don't come.
    """
    if not dist.is_initialized():
        here, (host, port) = seat(), meeting()
        os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = host, str(port)
        try:
            board, _, _ = next(rendezvous("env://", here.rank, here.ranks, timeout=timedelta(seconds=timeout)))
            board = PrefixStore(attempt(), board)
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
                store=PrefixStore("ranks", board),
                rank=here.rank,
                world_size=here.ranks,
                timeout=timedelta(seconds=1.5 * timeout + MARGIN),
                device_id=device if device.type == "cuda" else None,
            )
        except (dist.DistError, RuntimeError, ValueError) as error:
            raise LostError(
                f"rank {here.rank} of {here.ranks}: the ranks did not meet at {host}:{port} "
                f"({first_line(error)}); see that all were started, with one address and port"
            ) from error
        _boards[:] = [PrefixStore("last-words", board)]
    return Ranks()


def attempt() -> str:
    """Where on the board the ranks write. An elastic agent keeps its board when it starts the ranks again (torch 2.13),
    with all that the dead have written: whoever read that would wait for them."""
    agents = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    return f"attempt-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0') if agents else 0}"


def joined() -> bool:
    """Whether this process is one of several that have met."""
    return bool(_boards)


def leave() -> None:
    """Part from the others, when all is done."""
    if dist.is_initialized():
        dist.destroy_process_group()
    _boards.clear()


def by_first(team: Team, do: Callable[[], T]) -> T:
    """What rank 0 makes, told to all. A QiError of its is raised on all."""
    made: T | None = None
    error = ""
    if team.rank == 0:
        try:
            made = do()
        except QiError as caught:
            if team.ranks == 1:
                raise
            error = str(caught)
    error, made = team.send((error, made))
    if error:
        raise QiError(error)
    return cast("T", made)


def lost(error: Exception) -> str:
    """Why a collective failed, in short; nothing if the error is another."""
    broken = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Timed out waiting")
    if isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and ("gloo" in str(error) or any(word in str(error) for word in broken))
    ):
        return first_line(error)
    return ""


def first_line(error: Exception) -> str:
    """Without the C++ stack below, and without the place in torch's source before."""
    line = str(error).partition("\n")[0].partition(". This is typically")[0].strip()
    return line.partition("] ")[2] if line.startswith("[") and "] " in line else line


def told_by_another(text: str) -> bool:
    """Whether another rank has told just the same. It is on the board where the ranks met."""
    try:
        return bool(_boards[0].add(_key(text), 1) > 1)
    except (dist.DistError, RuntimeError):
        return False


def linger(text: str) -> None:
    """The board may be in rank 0's process: it stays a moment for others, who may be about to tell the same."""
    deadline = time.monotonic() + LINGER
    here = seat()
    try:
        while here.rank == 0 and _boards[0].add(_key(text), 0) < here.ranks and time.monotonic() < deadline:
            time.sleep(0.02)
    except (dist.DistError, RuntimeError):
        return


def _key(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
