"""The contract of engines."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import torch
from attrs import frozen

from qi_core.data import Sample, Samples
from qi_core.engine import EngineComponent, Spec, Workshop
from qi_core.portions import Order, Portion
from qi_core.producing import Maker
from qi_core.source import Ticket
from qi_core.testing.contract import Contract, contract, place, same

PATIENCE = 120.0
"""Seconds that a portion may take."""


@frozen
class Greys:
    """A source that plans: picture n is n grey."""

    gives: type = Samples

    def plan(self, count: int) -> list[Ticket]:
        return [(n,) for n in range(count)]

    def cost(self, ticket: Ticket) -> int:
        return 64

    def called(self, ticket: Ticket) -> str:
        return f"grey {ticket[0]}"

    def make(self, ticket: Ticket) -> Sample:
        image = torch.full((3, 8, 8), ticket[0] % 256, dtype=torch.uint8)
        return Sample(key=self.called(ticket), prompt="", image=image)

    def other(self, ticket: Ticket, attempt: int) -> Ticket:
        return (ticket[0] + attempt,)


def check_engine(component: EngineComponent, *, spec: Spec | None = None, command: Sequence[str] = ()) -> None:
    """``qi_core.engine.Engine``: every order is carried out, to the same portion each time, and nothing is left.

    ``spec`` and ``command``: for engines whose producers are other processes, a recipe with its maker, and what starts
    qi (``sys.executable, "-m", "qi_registry.cli"``); else pictures made here will do.
    """
    told = contract(component, "qi_core.engine.Engine")
    spec = spec or Spec(digest="greys", recipe="", maker=Maker(source=Greys(), seed=0))
    tickets = spec.maker.source.plan(12)
    orders = [_order(spec, number, tickets[3 * number : 3 * number + 3]) for number in range(4)]
    wanted = [spec.maker.make(order) for order in orders]
    before = {thread.ident for thread in threading.enumerate()}
    with place() as here:
        engine = component.build(_shop(here.folder, command))
        try:
            engine.begin(spec)
            found = [engine.carry_out(order).result(PATIENCE) for order in orders]
            _alike(told, spec, orders, found, wanted, "an order")
            at_once = [engine.carry_out(order) for order in (*reversed(orders), *orders)]
            again = [future.result(PATIENCE) for future in at_once]
            _alike(told, spec, [*reversed(orders), *orders], again, [*reversed(wanted), *wanted], "an order, again,")
            for name, value in engine.figures().items():
                told.holds(value >= 0, f"figures() tells {name} = {value!r}; wanted a number of 0 or more")
        finally:
            engine.close()
    left = [thread.name for thread in threading.enumerate() if thread.ident not in before and not thread.daemon]
    told.holds(not left, f"after close() threads are left: {', '.join(left)}")


def _order(spec: Spec, number: int, tickets: Sequence[Ticket]) -> Order:
    slots = tuple(range(3 * number, 3 * number + len(tickets)))
    return Order(spec=spec.digest, step=5, number=number, tickets=tuple(tickets), slots=slots)


def _shop(folder: Path, command: Sequence[str]) -> Workshop:
    return Workshop(
        folder=folder, rank=0, ranks=1, workers=2, command=tuple(command), pinned=False, tell=lambda line: None
    )


def _alike(
    told: Contract,
    spec: Spec,
    orders: Sequence[Order],
    found: Sequence[Portion],
    wanted: Sequence[Portion],
    what: str,
) -> None:
    for order, one, other in zip(orders, found, wanted, strict=True):
        # What came encoded is held beside what this process encodes.
        own = other if type(one.batch) is type(other.batch) else spec.maker.encoded(order, other)
        told.holds(
            same(one.batch, own.batch) and one.lost == own.lost,
            f"{what} is not carried out as the spec's own maker does it",
        )
        told.holds(
            tuple(getattr(one.batch, "slots", order.slots)) == order.slots, f"{what} comes back with other places"
        )
