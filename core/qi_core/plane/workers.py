"""Worker processes that carry out orders, watched: one that dies, hangs or grows is replaced, its order done again."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Protocol, runtime_checkable

from attrs import define, field

from qi_core.checksum import hex_of
from qi_core.errors import QiError
from qi_core.plane import wire
from qi_core.plane.body import Body, Spool
from qi_core.plane.child import FAREWELL, Build, Make, Task, listed
from qi_core.plane.orders import KNOWN
from qi_core.plane.process import NOT_READY, TOO_LONG, TOO_SLOW, Care, Died, Worker
from qi_core.plane.trial import Trial
from qi_core.portions import Avoided, Order

TRIES = 3
"""Workers that one order may cost."""
STOPPED = "the producer is being stopped"
SUSPECT = 2
"""Workers that an order has cost, after which its samples are tried one by one. One that hangs is not killed by chance:
there, the first is enough."""
KEPT = 1024
"""Samples of one spec that are known to end workers; of more, the oldest are forgotten."""


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


@define(eq=False)
class _Job:
    order: Order | None
    """None: get ready."""
    spec: str
    definition: bytes
    done: Future[Any] = field(factory=Future)
    """A Body, or None."""
    begun: bool = False
    cost: int = 0
    """Workers so far, since its samples were tried."""
    innocent: str = ""
    """What was found when its samples were tried one by one, if it was not that some of them end workers."""

    def wanted(self) -> bool:
        """Whether somebody still waits; from now on it can't be taken back."""
        self.begun = self.begun or self.done.set_running_or_notify_cancel()
        return self.begun

    def fail(self, error: Exception) -> None:
        if self.begun or not self.done.cancelled():
            self.done.set_exception(error)


class Workers:
    """A pool of ``child`` processes. A thread a worker hands it orders, one at a time, and watches it."""

    def __init__(self, argv: Sequence[str], care: Care, env: Mapping[str, str] | None = None) -> None:
        """``argv``: a program whose main function is ``child.work``. They start at once."""
        self._argv, self._care, self._env = tuple(argv), care, dict(os.environ if env is None else env)
        self._jobs, self._coming = deque[_Job](), threading.Condition()
        self._deaths = Counter[str]()
        self._children: list[Worker | None] = [None] * care.workers
        self._newest: _Job | None = None
        self._avoid: OrderedDict[str, tuple[Avoided, ...]] = OrderedDict()
        """Samples that ended whoever made them, by spec: found once, and avoided for as long as the pool is there."""
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
            if job.begun:
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
        except Died as death:
            self._bury(number, death)
        except QiError:
            pass  # who asks will be told

    def _do(self, number: int, job: _Job) -> None:
        try:
            child = self._children[number]
            if child is not None and not child.alive:  # it died of something else
                self._bury(number, Died(child.how()))
                child = None
            child = child or self._start(number)
            self._build(child, job)
            job.done.set_result(self._make(child, job.order) if job.order else None)
        except Died as death:
            self._bury(number, death)
            try:
                self._again(number, job, death)
            except Exception as error:
                job.fail(error)
        except Exception as error:
            job.fail(error)

    def _again(self, number: int, job: _Job, death: Died) -> None:
        """After a worker has ended in the middle of it. Raises QiError once that was too often."""
        job.cost += 1
        hung = death.reason == TOO_LONG
        if job.order and not job.innocent and (hung or job.cost >= SUSPECT):
            job.cost, job.innocent = 0, self._single_out(number, job, job.order, hung)
        if job.cost == TRIES:
            raise QiError(_poisoned(job, str(death)))
        self._put(job)

    def _single_out(self, number: int, job: _Job, order: Order, hung: bool) -> str:
        """Find the samples of an order that end whoever makes them: from now on they are avoided. What was found
        instead, if there are none. Raises QiError where it is more than a few samples."""
        trial = Trial(order, job.definition, self._care, self._avoided(job.spec), hung)
        while not trial.over and not self._closed:
            try:
                trial.go_on(lambda: self._start(number))
            except Died as death:
                self._bury(number, death)
            finally:
                self._end(number)
        for each in trial.found:
            told = f"{each.key!r} {each.reason} (a worker {each.detail}, twice); another takes its place"
            print(told, file=sys.stderr, flush=True)
        with self._coming:
            known = {each.key: each for each in (*self._avoided(job.spec), *trial.found)}
            self._avoid[job.spec] = tuple(known.values())[-KEPT:]
            while len(self._avoid) > KNOWN:
                self._avoid.popitem(last=False)
        why = (
            f"could not be tried alone ({trial.unfinished})" if trial.unfinished else "do not when they are made alone"
        )
        return "" if trial.found else why

    def _avoided(self, spec: str) -> tuple[Avoided, ...]:
        return self._avoid.get(spec, ())

    def _start(self, number: int) -> Worker:
        child = self._children[number] = Worker(self._argv, self._env, self._care)
        child.wait(self._care.start, NOT_READY)
        return child

    def _bury(self, number: int, death: Died) -> None:
        self._end(number)
        if not self._closed:
            self._deaths[str(death)] += 1

    def _end(self, number: int) -> None:
        child, self._children[number] = self._children[number], None
        if child is not None:
            child.end()

    def _build(self, child: Worker, job: _Job) -> None:
        if job.spec in child.built:
            return
        child.give(Task(spec=job.spec, definition=job.definition.decode(), deadline=self._care.start))
        reply, _ = child.wait(self._care.start, NOT_READY)
        if reply.kind == "refused":
            raise QiError(reply.text)
        child.remember(job.spec)

    def _make(self, child: Worker, order: Order) -> Body:
        text = wire.asked(order).decode()
        free = tuple(child.free.get_nowait() for _ in range(child.free.qsize()))
        avoid = listed(self._avoided(order.spec))
        child.give(Task(spec=order.spec, order=text, avoid=avoid, deadline=self._care.deadline, free=free))
        reply, fd = child.wait(self._care.deadline, TOO_SLOW)
        child.remember(order.spec)
        if reply.kind != "done" or fd is None:
            raise QiError(reply.text)
        child.maps.drop(reply.gone)
        try:
            view = child.maps.view(reply.number, fd, reply.size)
        finally:
            os.close(fd)
        return Body(view=view, sum=hex_of(reply.sum), close=lambda: child.free.put(reply.number))


def _poisoned(job: _Job, last: str) -> str:
    if job.order is None:
        return f"{TRIES} workers in a row ended while they got ready (the last {last}); see what they wrote"
    tickets = ", ".join(str(list(ticket)) for ticket in job.order.tickets[:4])
    more = f" and {len(job.order.tickets) - 4} more" if len(job.order.tickets) > 4 else ""
    return (
        f"portion {job.order.number} of step {job.order.step} ended {TRIES} workers in a row (the last {last}); its "
        f"samples (tickets {tickets}{more}) {job.innocent}: see what the workers wrote; give them more memory or "
        "time, or make data.portion smaller"
    )


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
