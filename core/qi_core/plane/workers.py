"""Worker processes that carry out orders, watched: one that dies, hangs or grows is replaced, its order done again."""

from __future__ import annotations

import os
import queue
import select
import socket
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Protocol, runtime_checkable

import msgspec
from attrs import define, field, frozen, validators

from qi_core.errors import QiError
from qi_core.plane import wire
from qi_core.plane.body import Body, Maps, Spool
from qi_core.plane.child import CHANNEL, FAREWELL, Build, Make, Reply, Task, receive, send
from qi_core.portions import Order

TRIES = 3
"""Workers that one order may cost."""
STOPPED = "the producer is being stopped"
TICK = 0.05
"""Seconds between two looks at how large a worker is."""
_PAGE = os.sysconf("SC_PAGE_SIZE")


@runtime_checkable
class Makes(Protocol):
    """Carries out orders, some at once."""

    def ready(self, spec: str, definition: bytes) -> None:
        """Orders of this spec are coming."""
        ...

    def submit(self, order: Order, definition: bytes) -> Future[Body]:
        """Fails with QiError where the order can't be carried out."""
        ...

    def alive(self) -> int:
        """Workers."""
        ...

    def deaths(self) -> dict[str, int]:
        """Workers that ended in the middle of something, by reason."""
        ...

    def close(self) -> None:
        """End them all."""
        ...


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
    """Bytes in memory at which a worker is killed; 0: no limit."""
    address_space: int = field(default=0, validator=validators.ge(0))
    """Bytes that a worker may reserve (RLIMIT_AS; not with CUDA, which reserves more than it uses); 0: no limit."""


@define(eq=False)
class _Job:
    order: Order | None
    """None: get ready."""
    spec: str
    definition: bytes
    done: Future[Any] = field(factory=Future)
    """A Body, or None."""
    cost: int = 0
    """Workers so far."""

    def wanted(self) -> bool:
        """Whether somebody still waits; from now on it can't be taken back."""
        return bool(self.cost) or self.done.set_running_or_notify_cancel()

    def fail(self, error: Exception) -> None:
        if self.cost or not self.done.cancelled():
            self.done.set_exception(error)


class _Died(Exception):
    """A worker ended; the text says how."""


class Workers:
    """A pool of ``child`` processes. A thread a worker hands it orders, one at a time, and watches it."""

    def __init__(self, argv: Sequence[str], care: Care, env: Mapping[str, str] | None = None) -> None:
        """``argv``: a program whose main function is ``child.work``. They start at once."""
        self._argv, self._care, self._env = tuple(argv), care, dict(os.environ if env is None else env)
        self._jobs, self._coming = deque[_Job](), threading.Condition()
        self._deaths = Counter[str]()
        self._children: list[_Child | None] = [None] * care.workers
        self._newest: _Job | None = None
        self._closed = False
        self._threads = [
            threading.Thread(target=self._tend, args=(number,), name=f"qi-worker-{number}", daemon=True)
            for number in range(care.workers)
        ]
        for thread in self._threads:
            thread.start()

    def ready(self, spec: str, definition: bytes) -> None:
        """See ``Makes``."""
        with self._coming:
            self._newest = _Job(None, spec, definition)
            self._jobs.extend(_Job(None, spec, definition) for _ in self._threads)
            self._coming.notify_all()

    def submit(self, order: Order, definition: bytes) -> Future[Body]:
        """See ``Makes``."""
        job = _Job(order, order.spec, definition)
        self._put(job)
        return job.done

    def alive(self) -> int:
        """See ``Makes``."""
        return len(self.pids())

    def pids(self) -> list[int]:
        """Of the processes that are alive."""
        return [child.process.pid for child in self._children if child is not None and child.alive]

    def deaths(self) -> dict[str, int]:
        """See ``Makes``."""
        return dict(self._deaths)

    def close(self) -> None:
        """See ``Makes``. They are told by their hanging up; who is not gone soon is killed."""
        with self._coming:
            self._closed = True
            for child in self._children:
                if child is not None and child.built:
                    child.hang_up()
                elif child is not None:  # it holds nothing
                    child.process.kill()
            left = list(self._jobs)
            self._jobs.clear()
            self._coming.notify_all()
        for job in left:
            job.fail(QiError(STOPPED))
        deadline = time.monotonic() + FAREWELL
        for thread in self._threads:
            thread.join(max(deadline - time.monotonic(), 0))
        while any(thread.is_alive() for thread in self._threads):
            for each in self._children:
                if each is not None:
                    each.process.kill()
            for thread in self._threads:
                thread.join(0.05)

    def _put(self, job: _Job) -> None:
        """In front, if it was tried before: somebody waits for it longest."""
        with self._coming:
            if self._closed:
                job.fail(QiError(STOPPED))
                return
            if job.cost:
                self._jobs.appendleft(job)
            else:
                self._jobs.append(job)
            self._coming.notify()

    def _tend(self, number: int) -> None:
        try:
            while not self._closed:
                if self._children[number] is None:  # also with nothing to do: who asks next need not wait for a start
                    self._begin(number)
                with self._coming:
                    while not self._jobs and not self._closed:
                        self._coming.wait()
                    job = self._jobs.popleft() if self._jobs else None
                if job is not None and job.wanted():
                    self._do(number, job)
        finally:
            self._end(number)

    def _begin(self, number: int) -> None:
        """Start, and get ready for what is coming."""
        try:
            child = self._start(number)
            if self._newest is not None:
                self._build(child, self._newest)
        except _Died as death:
            self._bury(number, death)
        except QiError:
            pass  # who asks will be told

    def _do(self, number: int, job: _Job) -> None:
        try:
            child = self._children[number]
            if child is not None and not child.alive:  # it died of something else
                self._bury(number, _Died(child.how()))
                child = None
            child = child or self._start(number)
            self._build(child, job)
            job.done.set_result(self._make(child, job.order) if job.order else None)
        except _Died as death:
            self._bury(number, death)
            job.cost += 1
            if job.cost < TRIES:
                self._put(job)
            else:
                job.fail(QiError(_poisoned(job, str(death))))
        except Exception as error:
            job.fail(error)

    def _start(self, number: int) -> _Child:
        child = self._children[number] = _Child(self._argv, self._env, self._care)
        child.wait(self._care.start, "was not ready after")
        return child

    def _bury(self, number: int, death: _Died) -> None:
        self._end(number)
        if not self._closed:
            self._deaths[str(death)] += 1

    def _end(self, number: int) -> None:
        child, self._children[number] = self._children[number], None
        if child is not None:
            child.end()

    def _build(self, child: _Child, job: _Job) -> None:
        if job.spec in child.built:
            return
        child.give(Task(spec=job.spec, definition=job.definition.decode(), deadline=self._care.start))
        reply, _ = child.wait(self._care.start, "was not ready after")
        if reply.kind == "refused":
            raise QiError(reply.text)
        child.remember(job.spec)

    def _make(self, child: _Child, order: Order) -> Body:
        text = wire.asked(order).decode()
        free = tuple(child.free.get_nowait() for _ in range(child.free.qsize()))
        child.give(Task(spec=order.spec, order=text, deadline=self._care.deadline, free=free))
        reply, fd = child.wait(self._care.deadline, "took longer than")
        child.remember(order.spec)
        if reply.kind != "done" or fd is None:
            raise QiError(reply.text)
        child.maps.drop(reply.gone)
        try:
            view = child.maps.view(reply.number, fd, reply.size)
        finally:
            os.close(fd)
        return Body(view=view, crc=f"{reply.crc:08x}", close=lambda: child.free.put(reply.number))


def _poisoned(job: _Job, last: str) -> str:
    if job.order is None:
        return f"{TRIES} workers in a row ended while they got ready (the last {last}); see what they wrote"
    tickets = ", ".join(str(list(ticket)) for ticket in job.order.tickets[:4])
    more = f" and {len(job.order.tickets) - 4} more" if len(job.order.tickets) > 4 else ""
    return (
        f"portion {job.order.number} of step {job.order.step} ended {TRIES} workers in a row (the last {last}); one of "
        f"its samples (tickets {tickets}{more}) is poison: take it out of the data, or give workers more memory or time"
    )


class _Child:
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
                raise _Died(f"could not be started: {error}") from error
        self._channel, self._hung_up = ours, False
        if care.address_space and sys.platform == "linux":
            import resource

            with suppress(ProcessLookupError):
                resource.prlimit(self.process.pid, resource.RLIMIT_AS, (care.address_space, care.address_space))

    def remember(self, spec: str) -> None:
        """As the worker does (``child.SPECS``)."""
        from qi_core.plane.child import SPECS

        self.built = [*(each for each in self.built if each != spec), spec][-SPECS:]

    def give(self, task: Task) -> None:
        try:
            send(self._channel, task)
        except OSError as error:
            raise _Died(self.how()) from error

    def wait(self, seconds: float, late: str) -> tuple[Reply, int | None]:
        """What it answers. Raises _Died, with the process dead, where it doesn't in time."""
        until = time.monotonic() + seconds
        poll = select.poll()
        poll.register(self._channel, select.POLLIN)
        while not poll.poll(1000 * (TICK if self._care.memory else seconds)):
            if self._care.memory and self._size() > self._care.memory:
                raise _Died(f"grew beyond {self._care.memory >> 20} MiB")
            if time.monotonic() >= until:
                raise _Died(f"{late} {seconds:g} s")
        try:
            text, fd = receive(self._channel)
        except (EOFError, OSError) as error:
            raise _Died(self.how()) from error
        reply = msgspec.json.decode(text, type=Reply)
        if reply.kind == "memory":
            raise _Died("had no memory left")
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


class Threads:
    """``Makes`` in threads of this process: for parts that need no guard, and for tests."""

    def __init__(self, build: Build, threads: int = 1) -> None:
        from concurrent.futures import ThreadPoolExecutor

        self._build, self._makers, self._spool = build, dict[str, Make](), Spool()
        self._pool, self._count, self._lock = ThreadPoolExecutor(threads), threads, threading.Lock()

    def ready(self, spec: str, definition: bytes) -> None:
        """See ``Makes``."""
        self._pool.submit(self._maker, spec, definition)

    def submit(self, order: Order, definition: bytes) -> Future[Body]:
        """See ``Makes``."""
        return self._pool.submit(self._made, order, definition)

    def alive(self) -> int:
        """See ``Makes``."""
        return self._count

    def deaths(self) -> dict[str, int]:
        """See ``Makes``."""
        return {}

    def close(self) -> None:
        """See ``Makes``."""
        self._pool.shutdown(cancel_futures=True)
        self._spool.close()

    def _maker(self, spec: str, definition: bytes) -> Make:
        with self._lock:
            if spec not in self._makers:
                while len(self._makers) > 1:
                    del self._makers[next(iter(self._makers))]
                self._makers[spec] = self._build(definition)
            return self._makers[spec]

    def _made(self, order: Order, definition: bytes) -> Body:
        from qi_core import packing

        return self._spool.body(packing.body(packing.pack(self._maker(order.spec, definition)(order))))
