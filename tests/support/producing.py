"""Producers for tests of the transport: what they make follows from the ticket, and so does what goes wrong.

python producing.py worker                      a worker of ``qi_core.plane.workers``
python producing.py producer SOCKET [SECONDS]   a producer whose orders take so long, until it is stopped
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from qi_core import QiError, Sample, Samples
from qi_core.plane import server
from qi_core.plane.child import Make, work
from qi_core.plane.orders import Caps, Orders, Specs
from qi_core.plane.server import Door
from qi_core.plane.workers import Makes, Threads
from qi_core.portions import Lost, Order, Portion

PROGRAM = Path(__file__)
SPEC = "spec-1"
ILL, SLOW, SICK = 1, 2, 3
"""The second number of a ticket: can't be carried out; takes for ever the first time; ends its worker, in another way
each time."""


def ordered(number: int, *also: int, size: int = 2, spec: str = SPEC) -> Order:
    """Of ``size`` samples; ``also``: what goes wrong with the first."""
    tickets = tuple((number * size + i, *(also if not i else ())) for i in range(size))
    return Order(spec=spec, step=number, number=0, tickets=tickets, slots=tuple(range(size)))


def portion_of(order: Order, side: int = 16) -> Portion:
    items = tuple(
        Sample(key=f"s{n}", prompt=f"{order.spec} {n}", image=torch.full((3, side, side), n % 251, dtype=torch.uint8))
        for n, *_ in order.tickets
    )
    return Portion(
        batch=Samples(items=items, slots=order.slots), lost=(Lost(key="lost", reason="too small", detail=""),)
    )


def told(portion: Portion) -> list[tuple[str, int, str]]:
    """What a portion holds, in short."""
    assert isinstance(portion.batch, Samples)
    return [(item.key, int(item.image.float().mean()), item.prompt) for item in portion.batch]


def build(definition: bytes) -> Make:
    """A definition is JSON: ``name``, and what it needs to go wrong."""
    given = json.loads(definition)
    if given.get("impossible"):
        raise QiError("this machine has no such encoder")

    def make(order: Order) -> Portion:
        for _, *also in order.tickets:
            if also == [ILL]:
                raise QiError("no usable sample is left")
            if also == [SLOW]:
                _slow(Path(given["folder"]) / "slow")
            if also == [SICK]:
                _sick(Path(given["folder"]) / "sick")
        return portion_of(order)

    return make


def _slow(mark: Path) -> None:
    if not mark.exists():
        mark.touch()
        time.sleep(3600)


def _sick(marks: Path) -> None:
    before = len(marks.read_text()) if marks.exists() else 0
    marks.write_text("x" * (before + 1))
    if before == 0:
        time.sleep(3600)
    if before == 1:
        hoard = [torch.ones(1 << 28, dtype=torch.uint8) for _ in range(16)]
        time.sleep(3600 + len(hoard))
    os.kill(os.getpid(), 11)


def definition(name: str = SPEC, **given: Any) -> str:
    return json.dumps({"name": name, **given})


def accept(text: str) -> str:
    """Names a definition."""
    return str(json.loads(text)["name"])


def knowing(*texts: str) -> Specs:
    specs = Specs(accept)
    for text in texts:
        specs.add(text)
    return specs


@contextmanager
def serving(
    door: Door,
    *,
    makes: Makes | Callable[[Order], Portion] = portion_of,
    specs: Sequence[str] = (definition(),),
    caps: Caps | None = None,
    shards: Path | None = None,
) -> Generator[tuple[list[str], Orders]]:
    """A producer in a thread of this process: its addresses, and its orders."""
    make = makes
    if not isinstance(make, Makes):
        make = Threads(lambda _: makes, threads=4)  # type: ignore[arg-type, return-value]
    orders = Orders(make, caps or Caps())
    ready, found, loop = threading.Event(), list[str](), asyncio.new_event_loop()
    stop = asyncio.Event()

    def begun(addresses: list[str]) -> None:
        found.extend(addresses)
        ready.set()

    def run() -> None:
        loop.run_until_complete(server.serve(orders, knowing(*specs), door, stop=stop, shards=shards, ready=begun))
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    assert ready.wait(20)
    try:
        yield found, orders
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(20)


def main(role: str, *rest: str) -> None:
    if role == "worker":
        work(build)
        return

    async def produce(path: Path, seconds: float) -> None:
        def slowly(order: Order) -> Portion:
            time.sleep(seconds)
            return portion_of(order)

        door = Door(socket=path)
        orders = Orders(Threads(lambda _: slowly, threads=2), Caps())
        await server.serve(orders, Specs(accept), door, stop=server.until_stopped(), ready=server.told)

    asyncio.run(produce(Path(rest[0]), float(rest[1])))


if __name__ == "__main__":
    main(*sys.argv[1:])
