"""The trainer's side: orders go to producers, portions come back into its buffers, whatever happens to producers.

An order's answer follows from the order alone. So one that fails is given to another producer, one that takes long is
given to a second one as well, and the first answer is as good as any.
"""

from __future__ import annotations

import heapq
import itertools
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from http.client import HTTPConnection

from attrs import define, field, frozen, validators

from qi_core.errors import QiError
from qi_core.plane import wire
from qi_core.plane.producer import Answer, Busy, Call, Gone, Producer, Refused, Unknown, Wrong, hang_up
from qi_core.plane.ring import Ring
from qi_core.portions import Order, Portion

DAMAGED = 8
"""Wrong answers to one order, after which it is no accident."""
TAUGHT = 3
"""Times that a producer may say of one order that it doesn't know its spec."""
HEDGE = 3.0
"""An order that takes so many times as long as most is given to a second producer."""
TICK = 0.05


@frozen(kw_only=True)
class Care:
    """How orders are looked after."""

    window: int = field(default=8, validator=validators.gt(0))
    """Orders at once; who orders more waits."""
    timeout: float = field(default=300.0, validator=validators.gt(0))
    """Seconds without any producer after which the run ends."""
    hedge: float = field(default=1.0, validator=validators.ge(0))
    """Seconds that an order may always take before a second producer is asked."""


@frozen(kw_only=True)
class Counted:
    """What was had of one producer."""

    address: str
    connections: int
    """Opened: with all going well, as many as orders at once."""
    portions: int
    bytes: int
    gone: int
    """Times that it could not be reached, or broke off."""
    damaged: int
    """Answers that were short, or wrong."""
    busy: int
    slow: int
    """Orders that another was faster with."""
    pace: float
    """Seconds a portion."""
    last: str
    """What went wrong last."""


@define(eq=False)
class _Attempt:
    producer: Producer
    began: float
    connection: HTTPConnection | None = None


@define(eq=False)
class _Pull:
    """An order under way."""

    order: Order
    body: bytes
    since: float
    done: Future[Portion] = field(factory=Future)
    attempts: list[_Attempt] = field(factory=list)
    damaged: int = 0
    unknown: int = 0
    hedged: bool = False
    refused: list[Producer] = field(factory=list)
    """Those that can't carry it out."""
    over: bool = False
    """Its outcome is known, and ``done`` is told or about to be."""


class Puller:
    """Orders portions of several producers. Any thread may order."""

    def __init__(
        self,
        producers: Sequence[str],
        *,
        call: Call | None = None,
        care: Care | None = None,
        define: Callable[[str], str | None] = lambda spec: None,
        ring: Ring | None = None,
    ) -> None:
        """``producers``: addresses. ``define``: the definition of a spec, for producers that don't know it; may be
        asked by several threads. Raises QiError for an address that is none."""
        self._care = care or Care()
        self._call = call or Call()
        self._producers = [Producer(wire.Address.of(each), self._call) for each in producers]
        if not self._producers:
            raise QiError("no producer is given; want at least one address")
        self._patience = self._call.patience
        self._define = define
        self.ring = ring or Ring(self._care.window + 2)
        self._waiting: list[tuple[float, int, _Pull]] = []  # a heap: when to try, in which order
        self._count = itertools.count()
        self._pulls: list[_Pull] = []
        self._outcomes: deque[tuple[Future[Portion], Portion | Exception]] = deque()
        self._times: deque[float] = deque(maxlen=64)
        self._turn = threading.Condition()
        self._alive = time.monotonic()  # when a producer gave the last sign of life
        self._closed = False
        names = [f"qi-pull-{number}" for number in range(self._care.window + 2)]
        self._threads = [threading.Thread(target=self._work, name=name, daemon=True) for name in names]
        self._threads.append(threading.Thread(target=self._watch, name="qi-pull-watch", daemon=True))
        for thread in self._threads:
            thread.start()

    def order(self, order: Order) -> Future[Portion]:
        """Waits while the window is full. The future fails with QiError where the order can't be carried out, or no
        producer is left."""
        pull = _Pull(order, wire.asked(order), time.monotonic())
        pull.done.set_running_or_notify_cancel()
        with self._turn:
            while len(self._pulls) >= self._care.window and not self._closed:
                self._turn.wait()
            if self._closed:
                raise QiError("portions are ordered after the end of the run")
            pull.since = time.monotonic()
            self._pulls.append(pull)
            self._push(pull, 0.0)
        return pull.done

    def meet(self, producers: Sequence[str]) -> None:
        """From now on these are asked; what others have under way still counts."""
        with self._turn:
            known = {each.address.text: each for each in self._producers}
            call = self._call
            self._producers = [
                known.pop(each) if each in known else Producer(wire.Address.of(each), call) for each in producers
            ]
            for _, _, pull in self._waiting[:]:
                self._push(pull, 0.0)  # somebody new need not be waited for
        for gone in known.values():
            gone.close()

    def counted(self) -> list[Counted]:
        """A line a producer."""
        return [
            Counted(
                address=each.address.text,
                connections=each.counts["connections"],
                portions=each.counts["portions"],
                bytes=each.counts["bytes"],
                gone=each.counts["gone"],
                damaged=each.counts["damaged"],
                busy=each.counts["busy"],
                slow=each.counts["slow"],
                pace=each.pace,
                last=each.last,
            )
            for each in self._producers
        ]

    def close(self) -> None:
        """Hang up on everybody."""
        with self._turn:
            self._closed = True
            pulls = list(self._pulls)
            self._turn.notify_all()
        for pull in pulls:
            self._end(pull, QiError("the run has ended"))
        for thread in self._threads:
            thread.join(5.0)
        for producer in self._producers:
            producer.close()

    def _push(self, pull: _Pull, due: float) -> None:
        """The lock is held."""
        heapq.heappush(self._waiting, (due, next(self._count), pull))
        self._turn.notify_all()

    def _work(self) -> None:
        while self._one():  # what it speaks of ends with the call: a portion that nobody needs must not be held here
            pass

    def _one(self) -> bool:
        with self._turn:
            taken = self._next()
        self._tell()
        if taken is None:
            return not self._closed
        pull, attempt = taken
        try:
            self._try(pull, attempt)
        except Exception as error:
            self._end(pull, error)
        return True

    def _next(self) -> tuple[_Pull, _Attempt] | None:
        """The next order that is due, and whom to ask; None where there is something to tell, and at the end. The lock
        is held, and let go while there is nothing to do."""
        while not self._closed:
            now = time.monotonic()
            if not self._waiting or self._waiting[0][0] > now:
                self._turn.wait(self._waiting[0][0] - now if self._waiting else None)
                continue
            _, _, pull = heapq.heappop(self._waiting)
            if pull.over:
                continue
            producer = self._nearest(pull, now)
            if producer is not None:
                producer.asked += 1
                attempt = _Attempt(producer, now)
                pull.attempts.append(attempt)
                return pull, attempt
            if pull.attempts:
                pull.hedged = False  # there is nobody else to ask now; who was asked may still answer
            elif self._gave_up(pull, now):
                return None
            else:
                rested = min(each.rests_until for each in self._producers)
                heapq.heappush(self._waiting, (max(rested, now + 0.01), next(self._count), pull))
        return None

    def _nearest(self, pull: _Pull, now: float) -> Producer | None:
        """Of those that do not rest and were not asked yet: the nearest, and of several equally near ones who will
        have it done first."""
        asked = [attempt.producer for attempt in pull.attempts] + pull.refused
        free = [each for each in self._producers if each.rests_until <= now and each not in asked]
        return min(
            free, key=lambda each: (each.address.distance, (each.asked + 1) * each.pace, each.asked), default=None
        )

    def _gave_up(self, pull: _Pull, now: float) -> bool:
        """Whether it has waited too long for anybody to ask; then it is at its end. The lock is held."""
        quiet = now - max(self._alive, pull.since)
        if quiet <= self._care.timeout and now - pull.since <= self._patience + self._care.timeout:
            return False
        told = ", ".join(f"{each.address.text} ({each.last or 'not asked'})" for each in self._producers)
        self._finish(
            pull,
            QiError(
                f"no producer gave a portion for {max(quiet, self._care.timeout):.0f} s: {told}; see that one runs and "
                "can be reached, then resume the run"
            ),
        )
        return True

    def _try(self, pull: _Pull, attempt: _Attempt) -> None:
        producer = attempt.producer
        answer: Answer | None = None
        again = time.monotonic()
        try:
            attempt.connection = producer.connect()
            if pull.over:
                attempt.connection.close()
            else:
                answer = producer.pull(attempt.connection, pull.order, pull.body, self.ring)
        except (Gone, Wrong) as error:
            again = self._failed(pull, producer, error)
        except Busy as error:
            producer.counts["busy"] += 1
            producer.rest(str(error), error.seconds)
            self._alive = time.monotonic()
        except Unknown as error:
            again = self._teach(pull, attempt, error)
        except Refused as error:
            self._refused(pull, producer, error)
        finally:
            with self._turn:
                producer.asked -= 1
                pull.attempts.remove(attempt)
                pull.hedged = False
                if answer is None and not pull.over and not pull.attempts:
                    self._push(pull, again)
        if answer is not None:
            producer.works()
            producer.took(answer.seconds)
            producer.counts["portions"] += 1
            producer.counts["bytes"] += answer.bytes
            self._alive = time.monotonic()
            self._times.append(answer.seconds)
            self._end(pull, answer.portion)

    def _refused(self, pull: _Pull, producer: Producer, error: Refused) -> None:
        """It may be the machine's fault: another is asked, now or once it has time. Raises QiError where there is none,
        or none that can be reached."""
        producer.last = str(error)
        now = time.monotonic()
        with self._turn:
            pull.refused.append(producer)
            others = [each for each in self._producers if each not in pull.refused]
            if not pull.over and not any(not each.failures or each.rests_until <= now for each in others):
                raise QiError(str(error))

    def _failed(self, pull: _Pull, producer: Producer, error: Gone | Wrong) -> float:
        """When to try again. Who lost to another producer has not failed. Raises QiError after too many."""
        now = time.monotonic()
        if pull.over:
            return now
        producer.counts["gone" if isinstance(error, Gone) else "damaged"] += 1
        producer.rest(str(error))
        if isinstance(error, Wrong):
            pull.damaged += 1
            if pull.damaged >= DAMAGED:
                raise QiError(
                    f"producer {producer.address.text} sent {error}; so were {DAMAGED} answers to one order; "
                    "check memory and network on both sides"
                )
        return now

    def _teach(self, pull: _Pull, attempt: _Attempt, error: Unknown) -> float:
        """Give the producer the spec of the order. Raises QiError where there is none to give, or it stays unknown."""
        producer, spec = attempt.producer, pull.order.spec
        pull.unknown += 1
        definition = self._define(spec) if pull.unknown <= TAUGHT else None
        if definition is None:
            known = ", ".join(error.specs) or "none"
            raise QiError(
                f"version skew: producer {producer.address.text} works by spec {known}, this run by {spec}; "
                "start it with this run's recipe and version of qi"
            )
        try:
            producer.teach(spec, definition, attempt.began)
        except (Gone, Wrong) as failure:
            return self._failed(pull, producer, failure)
        except Busy as busy:
            producer.rest(str(busy), busy.seconds)
        return time.monotonic()

    def _end(self, pull: _Pull, outcome: Portion | Exception) -> None:
        with self._turn:
            self._finish(pull, outcome)
        self._tell()

    def _finish(self, pull: _Pull, outcome: Portion | Exception) -> None:
        """The first outcome counts; whoever else was asked is hung up on. The lock is held."""
        if pull.over:
            return
        pull.over = True
        self._pulls.remove(pull)
        self._outcomes.append((pull.done, outcome))
        now = time.monotonic()
        for attempt in pull.attempts:
            if not isinstance(outcome, Exception):
                attempt.producer.counts["slow"] += 1
                attempt.producer.took(now - attempt.began)
                attempt.producer.rest("slow: another was faster")
            if attempt.connection is not None:
                hang_up(attempt.connection)
        self._turn.notify_all()

    def _tell(self) -> None:
        """Whoever waits for an outcome may do anything when it is told: the lock is not held."""
        while self._outcomes:
            with suppress(IndexError):  # another thread tells the last one
                done, outcome = self._outcomes.popleft()
                if isinstance(outcome, Exception):
                    done.set_exception(outcome)
                else:
                    done.set_result(outcome)

    def _watch(self) -> None:
        """Give orders that take long to a second producer as well."""
        while True:
            with self._turn:
                self._turn.wait(TICK)
                if self._closed:
                    return
                usual = statistics.median(self._times) if self._times else 0.0
                late = time.monotonic() - max(self._care.hedge, HEDGE * usual)
                for pull in self._pulls:
                    if not pull.hedged and len(pull.attempts) == 1 and pull.attempts[0].began < late:
                        pull.hedged = True
                        self._push(pull, 0.0)
