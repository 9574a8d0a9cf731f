"""A worker process as its pool sees it: given tasks, waited for, watched while it works, and ended."""

from __future__ import annotations

import os
import queue
import select
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import msgspec
from attrs import field, frozen, validators

from qi_core.plane.body import Maps
from qi_core.plane.child import CHANNEL, FAREWELL, SPECS, Reply, Task, receive, send

TICK = 0.05
"""Seconds between two looks at how large a worker is."""
KILLS = "kills the process that makes it"
TOO_LONG = "takes too long to make"
TOO_LARGE = "takes too much memory to make"
"""How a worker ends, as the reason why a sample can't be used."""
NOT_READY, TOO_SLOW = "was not ready after", "took longer than"
"""How it is late: with getting ready, with what it was given."""
_PAGE = os.sysconf("SC_PAGE_SIZE")


@frozen(kw_only=True)
class Care:
    """How workers are kept."""

    workers: int = field(default=2, validator=validators.gt(0))
    """Processes."""
    deadline: float = field(default=120.0, validator=validators.gt(0))
    """Seconds in which an order must be done; who takes longer hangs, and is killed."""
    start: float = field(default=900.0, validator=validators.gt(0))
    """Seconds in which a worker must be ready: encoders are loaded."""
    memory: int = field(default=0, validator=validators.ge(0))
    """Bytes in memory at which a worker is killed; 0: no limit. It is watched, and not held to by the system
    (RLIMIT_AS, RLIMIT_DATA): a decoder that is given no memory says that the file is broken, and of several threads
    which one is given none is chance; so samples would be lost that are good, and others each time."""


class Died(Exception):
    """A worker ended; the text says how."""

    def __init__(self, how: str, reason: str = KILLS) -> None:
        super().__init__(how)
        self.reason = reason


class Worker:
    """A worker process and the pool's end of its socket."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str], care: Care) -> None:
        self._care = care
        self.built: list[str] = []
        """Specs that it keeps makers of, the one used last at the end."""
        self.free: queue.SimpleQueue[int] = queue.SimpleQueue()
        """Its files that nobody reads any more, to be told with the next order."""
        self.maps = Maps()
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self.process = subprocess.Popen(
                    [*argv],
                    env={**env, CHANNEL: str(theirs.fileno())},
                    stdin=subprocess.DEVNULL,
                    stdout=2,  # the server's own tells where it listens, and may be read no further
                    pass_fds=[theirs.fileno()],
                )
            except OSError as error:
                ours.close()
                raise Died(f"could not be started: {error}") from error
        ours.settimeout(max(care.start, care.deadline))  # one that is stopped takes no order, and ends no message
        self._channel, self._hung_up = ours, False

    def remember(self, spec: str) -> None:
        """As the worker does (``child.SPECS``)."""
        self.built = [*(each for each in self.built if each != spec), spec][-SPECS:]

    def give(self, task: Task) -> None:
        try:
            send(self._channel, task)
        except OSError as error:
            raise Died(self.how()) from error

    def wait(self, seconds: float, late: str) -> tuple[Reply, int | None]:
        """What it answers. Raises Died, with the process dead, where it doesn't in time."""
        until = time.monotonic() + seconds
        poll = select.poll()
        poll.register(self._channel, select.POLLIN)
        while not poll.poll(1000 * (TICK if self._care.memory else seconds)):
            if self._care.memory and self._size() > self._care.memory:
                raise Died(f"grew beyond {self._care.memory >> 20} MiB", TOO_LARGE)
            if time.monotonic() >= until:
                raise Died(f"{late} {seconds:g} s", TOO_LONG if late == TOO_SLOW else KILLS)
        try:
            text, fd = receive(self._channel)
        except (EOFError, OSError) as error:
            raise Died(self.how()) from error
        reply = msgspec.json.decode(text, type=Reply)
        if reply.kind == "memory":
            raise Died("had no memory left", TOO_LARGE)
        return reply, fd

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def hang_up(self) -> None:
        """It is to end, and has a while to put away what it holds."""
        self._hung_up = True
        with suppress(OSError):
            self._channel.shutdown(socket.SHUT_WR)

    def end(self) -> None:
        """Kill it, unless it is putting things away, and see it gone."""
        if self._hung_up:
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(FAREWELL)
        self.process.kill()
        self.process.wait()
        self._channel.close()

    def how(self) -> str:
        """It ended."""
        code: Any = None
        with suppress(subprocess.TimeoutExpired):
            code = self.process.wait(1.0)
        if code is None:
            return "hung up"
        return f"was killed by signal {-code}" if code < 0 else f"exited with {code}"

    def _size(self) -> int:
        """Bytes in memory; 0 where the system doesn't tell."""
        try:
            with open(f"/proc/{self.process.pid}/statm", encoding="ascii") as file:
                return int(file.read().split()[1]) * _PAGE
        except (OSError, IndexError):
            return 0
