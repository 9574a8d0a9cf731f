"""The contract of sources that plan."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

from qi_core.data import Batch
from qi_core.drawing import Made, made
from qi_core.source import Planned, SourceComponent, Ticket
from qi_core.testing.contract import Contract, contract, same

PLANNED = 1000
"""Tickets that are asked for at once, to see what planning costs."""
SECONDS = 1.0
"""Of a core, which they may cost at most: a step's are planned anew by every rank."""


def check_planned(component: SourceComponent[Any], fresh: Callable[[], Any], samples: Sequence[Batch]) -> None:
    """``qi_core.source.Planned``. ``fresh``: builds the live source, always with one seed; ``samples``: what it draws
    one by one."""
    told = contract(component, "qi_core.source.Planned")
    planner, maker = fresh(), fresh()
    told.holds(planner.gives is component.gives, f"gives is {planner.gives!r}; its settings say {component.gives!r}")
    tickets = _tickets(told, planner, len(samples))
    _planning_is_cheap(told, planner)
    # By a source that has planned nothing, the last first and side by side: a ticket is all that a sample depends on.
    found = _made(maker, tickets)
    for n, (ticket, one, sample) in enumerate(zip(tickets, found, samples, strict=True)):
        told.holds(
            same(_batch(planner, one), sample),
            f"what another source makes of the ticket of sample {n}, {ticket}, is not what draw(1) gives",
        )
        _described(told, planner, ticket, one)
    _stands_in(told, fresh(), maker, tickets[: len(samples) // 2])


def _tickets(told: Contract, planner: Planned, count: int) -> list[Ticket]:
    tickets = [ticket for _ in range(count) for ticket in planner.plan(1)]
    told.holds(len(tickets) == count, f"plan(1) gave {len(tickets)} tickets when called {count} times")
    for ticket in tickets:
        _is_ticket(told, ticket, "plan()")
    return tickets


def _is_ticket(told: Contract, ticket: Any, what: str) -> None:
    numbers = isinstance(ticket, tuple) and all(type(number) is int for number in ticket)  # pyright: ignore
    told.holds(
        numbers and tuple(json.loads(json.dumps(ticket))) == ticket,
        f"{what} gave the ticket {ticket!r}; wanted a tuple of Python's whole numbers, which goes through JSON",
    )


def _planning_is_cheap(told: Contract, planner: Planned) -> None:
    began = time.thread_time()
    with _watched() as opened:
        tickets = planner.plan(PLANNED)
    took = time.thread_time() - began
    told.holds(len(tickets) == PLANNED, f"plan({PLANNED}) gave {len(tickets)} tickets")
    looks = getattr(planner, "looks", False)
    told.holds(looks or not opened, f"plan() opens files, connections or processes: {', '.join(opened[:3])}")
    told.holds(took < SECONDS, f"plan({PLANNED}) took {took:.1f} s of a core; wanted less than {SECONDS:g}")


def _made(maker: Planned, tickets: Sequence[Ticket]) -> list[Made]:
    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(partial(made, maker), tickets[::-1]))[::-1]


def _batch(planner: Planned, one: Made) -> Batch:
    batch: Batch = planner.gives(items=(one.item,))
    return batch


def _described(told: Contract, planner: Planned, ticket: Ticket, one: Made) -> None:
    called, key = planner.called(ticket), one.lost[0].key if one.lost else one.item.key
    told.holds(called == key, f"called({ticket}) is {called!r}, the key of what is made of it {key!r}")
    cost = planner.cost(ticket)
    told.holds(type(cost) is int and cost > 0, f"cost({ticket}) is {cost!r}; wanted a whole number above 0")


def _stands_in(told: Contract, fresh: Planned, used: Planned, tickets: Sequence[Ticket]) -> None:
    """``used``: has made all of them, and knows which are broken."""
    for ticket in tickets:
        for attempt in (1, 2):
            other = used.other(ticket, attempt)
            _is_ticket(told, other, f"other({ticket}, {attempt})")
            told.holds(
                fresh.other(ticket, attempt) == other == used.other(ticket, attempt),
                f"other({ticket}, {attempt}) depends on more than the ticket and the attempt; what stands in for a "
                "sample must be the same in every process, and after a resume",
            )
    others = [used.other(ticket, 1) for ticket in tickets]
    for other, one, another in zip(others, _made(used, others), _made(fresh, others), strict=True):
        told.holds(
            same(_batch(used, one), _batch(fresh, another)), f"two sources make two samples of the stand-in {other}"
        )


_WATCHED = threading.local()

_OPENING = frozenset({"open", "socket.connect", "subprocess.Popen"})


@contextmanager
def _watched() -> Generator[list[str]]:
    """What this thread opens meanwhile."""
    _listen()
    _WATCHED.opened = opened = list[str]()
    try:
        yield opened
    finally:
        _WATCHED.opened = None


@cache
def _listen() -> None:
    """Once a process, for a listener cannot be taken away."""

    def heard(event: str, args: tuple[Any, ...]) -> None:
        opened = getattr(_WATCHED, "opened", None) if event in _OPENING else None
        if opened is not None:
            opened.append(f"{event} {args[0] if event == 'open' else args[1]!r}")

    sys.addaudithook(heard)
