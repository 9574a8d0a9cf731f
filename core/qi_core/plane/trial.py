"""Which samples of an order end whoever makes them: found by making them one by one, in processes of their own."""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Callable, Sequence

from qi_core.errors import QiError
from qi_core.plane import wire
from qi_core.plane.child import Task, listed
from qi_core.plane.process import NOT_READY, TOO_SLOW, Care, Died, Worker
from qi_core.portions import Avoided, Order

STRIKES = 2
"""Workers that a sample must have ended alone: one may be killed by somebody else just then."""
MOST = 16
"""Samples of one order that do so, before something larger must be wrong."""
STARTS = 3
"""Workers that may end before they have begun with a sample."""


class Trial:
    """Of one order. A worker that has just started tries as many of its samples as it can; where it ends, a new one
    goes on with that sample, and so has made nothing else."""

    def __init__(self, order: Order, definition: bytes, care: Care, known: Sequence[Avoided], hung: bool) -> None:
        """``known``: what is avoided already. ``hung``: it was an order that hung, so that each try costs the whole
        deadline: every sample gets a worker of its own at once."""
        self._order, self._definition, self._care, self._hung = order, definition, care, hung
        self._known = list(known)
        self.found: list[Avoided] = []
        self.unfinished = ""
        """Why not all could be tried, if so."""
        self._left = deque(range(len(order.tickets)))
        self._at: tuple[int, str] | None = None
        self._strikes, self._stillborn = Counter[str](), 0

    @property
    def over(self) -> bool:
        """All that could be done."""
        return not self._left

    def go_on(self, start: Callable[[], Worker]) -> None:
        """With what is left, in a new worker. Raises Died, and QiError where so many of them end workers that more must
        be wrong."""
        self._at, places = None, (self._left[0],) if self._hung else tuple(self._left)
        try:
            self._try(start(), places)
        except Died as death:
            self._died(death, places[0])
            raise

    def _try(self, worker: Worker, places: tuple[int, ...]) -> None:
        care = self._care
        worker.give(
            Task(
                spec=self._order.spec,
                definition=self._definition.decode(),
                order=wire.asked(self._order).decode(),
                avoid=listed(self._known),
                singly=places,
                deadline=care.start,
                each=care.deadline,
            )
        )
        seconds, late = care.start, NOT_READY
        while (reply := worker.wait(seconds, late)[0]).kind == "trying":
            self._at = reply.number, json.loads(reply.text)
            seconds, late = care.deadline, TOO_SLOW
        if reply.kind != "tried":
            self._give_up(reply.text)
        for _ in places[: len(self._left)]:
            self._left.popleft()

    def _died(self, death: Died, first: int) -> None:
        """``first``: the place that this worker began with."""
        if self._at is None:
            self._stillborn += 1
            if self._stillborn == STARTS:
                self._give_up(f"{STARTS} workers ended before they could, the last {death}")
            return
        place, key = self._at
        while self._left[0] != place:
            self._left.popleft()
        if place != first:
            return
        self._strikes[key] += 1
        if self._strikes[key] == STRIKES:
            self.found.append(Avoided(key=key, reason=death.reason, detail=str(death)))
            self._known.append(self.found[-1])
        if len(self.found) == MOST:
            raise QiError(
                f"{MOST} samples of portion {self._order.number} of step {self._order.step} ended every worker that "
                f"made them, the last, {key!r}: {death}; see what the workers wrote, look at the machine's memory and "
                "at the libraries that read these samples"
            )

    def _give_up(self, why: str) -> None:
        self.unfinished = why
        self._left.clear()
