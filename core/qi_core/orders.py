"""The feed of sources that plan: the steps ahead are ordered, portion by portion, from an engine.

What a step trains on follows from the source's position alone: not from timing, from who makes it, nor from how many
replicas there are, among which portions are dealt.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from types import TracebackType
from typing import Any

from attrs import frozen

from qi_core.curriculum import Pace
from qi_core.dealing import balanced
from qi_core.engine import Engine
from qi_core.errors import QiError
from qi_core.feed import Ready, digest
from qi_core.material import told
from qi_core.portions import Order, Portion
from qi_core.source import Planned, Ticket


@frozen(kw_only=True)
class Cut:
    """How a step's batch is cut."""

    portion: int
    """Samples made and encoded together."""
    replicas: int = 1
    replica: int = 0
    accumulate: int = 1

    def portions(self, costs: Sequence[int]) -> list[list[int]]:
        """Of about equal cost, equally many for each replica where there are enough samples."""
        count = max(-(-len(costs) // self.portion), self.replicas)
        count = min(-(-count // self.replicas) * self.replicas, len(costs))
        return balanced(costs, count)


@frozen(kw_only=True, eq=False)
class Ahead:
    """A step ahead, ordered."""

    step: int
    futures: tuple[Future[Portion], ...]
    orders: tuple[Order, ...]
    names: tuple[tuple[str, ...], ...]
    """Keys of the samples of each order."""
    total: int
    passes: int
    spare: bool
    position: dict[str, Any]
    digest: int


class Ordered:
    """Plans, orders ahead and hands out."""

    def __init__(
        self,
        source: Planned,
        engine: Engine,
        *,
        spec: str,
        step: int,
        pace: Pace,
        ahead: int,
        cut: Cut,
        patience: float = 3600.0,
    ) -> None:
        """``step``: updates done. ``patience``: seconds after which nobody seems to make a portion."""
        self._source: Any = source
        self._engine, self._spec, self._step = engine, spec, step
        self._pace, self._ahead, self._cut, self._patience = pace, ahead, cut, patience
        self._steps: deque[Ahead] = deque()
        self._until: int | None = None
        self._cleared = step
        self._made_of = told(source)
        self.begins = True
        """Nothing of these settings has come yet: whoever makes samples may have to load much first."""

    def __enter__(self) -> Ordered:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._forget()

    def next(self) -> Ready:
        """The next step's share. Raises QiError where it can't be made."""
        self._fill()
        self.begins = False
        front = self._steps.popleft()
        return Ready(
            portions=tuple(map(self._wait, front.futures, front.orders, front.names)),
            total=front.total,
            passes=front.passes,
            position=front.position,
            digest=front.digest,
            spare=front.spare,
            orders=front.orders,
        )

    def wait(self) -> None:
        """Until the next step's share is made. Raises QiError where it can't be."""
        self._fill()
        front = self._steps[0]
        for each in zip(front.futures, front.orders, front.names, strict=True):
            self._wait(*each)

    def begin(self, source: Planned, spec: str, step: int, pace: Pace) -> None:
        """From this step on by other settings; what was made ahead of it is made again. ``source`` stands where that
        step begins."""
        self._forget()
        self._source, self._spec, self._step, self._pace = source, spec, step, pace
        self._until, self._made_of = None, told(source)
        self.begins = True
        self.clear(step)

    def clear(self, step: int) -> None:
        """What the curriculum has for this step is in effect: it may be planned, and those until the next move."""
        self._cleared = step

    def fence(self, step: int) -> int:
        """This step, or the next that is not planned already."""
        return max(step, self._step)

    def hold(self, step: int) -> None:
        """Nothing is planned from this step on, until ``begin``."""
        self._until = step

    def _fill(self) -> None:
        while len(self._steps) <= self._ahead and self._may_plan():
            self._plan()

    def _may_plan(self) -> bool:
        fenced = self._until is not None and self._step >= self._until
        return not fenced and not any(self._cleared < move <= self._step for move in self._pace.moves)

    def _plan(self) -> None:
        """One more step is planned and ordered."""
        tickets = self._pace.tickets(self._source, self._step)
        position = self._source.state_dict()
        costs = [self._source.cost(ticket) for ticket in tickets]
        cut = self._cut
        portions = cut.portions(costs)
        loads = [sum(costs[i] for i in portion) for portion in portions]
        own = balanced(loads, cut.replicas) if cut.replicas > 1 else [list(range(len(portions)))]
        counts = [sum(len(portions[number]) for number in each) for each in own]
        mine = own[cut.replica] or [0]
        orders = tuple(self._order(number, portions[number], tickets) for number in mine)
        self._steps.append(
            Ahead(
                step=self._step,
                futures=tuple(map(self._engine.carry_out, orders)),
                orders=orders,
                names=tuple(tuple(map(self._source.called, order.tickets)) for order in orders),
                total=len(tickets),
                passes=min(cut.accumulate, max(counts)),
                spare=not own[cut.replica],
                position=position,
                digest=digest((tickets, json.dumps(position))),
            )
        )
        self._step += 1

    def _order(self, number: int, slots: Sequence[int], tickets: Sequence[Ticket]) -> Order:
        own = tuple(tickets[i] for i in slots)
        return Order(
            spec=self._spec,
            step=self._step,
            number=number,
            tickets=own,
            slots=tuple(slots),
            made_of=self._made_of,
        )

    def _wait(self, future: Future[Portion], order: Order, names: Sequence[str]) -> Portion:
        try:
            portion = future.result(self._patience)
        except FutureTimeout as error:
            raise QiError(
                f"step {order.step + 1}: portion {order.number} of its batch was not made within {self._patience:g} s; "
                "see what the producers do (qi data report, or their logs), and go on with the same command"
            ) from error
        self._refuse_others(portion, order, names)
        return portion

    def _refuse_others(self, portion: Portion, order: Order, names: Sequence[str]) -> None:
        """Raises QiError if it is made of other samples: the producer's data is not the trainer's."""
        replaced = {lost.key for lost in portion.lost}
        found: Sequence[str] = getattr(portion.batch, "keys", None) or [item.key for item in portion.batch.items]  # type: ignore[attr-defined]
        for name, key in zip(names, found, strict=False):
            if key != name and name not in replaced:
                raise QiError(
                    f"step {order.step + 1}: {name} was ordered and {key} came; the producer's data is not the "
                    "trainer's: see that both have the same files"
                )
        if len(found) != len(order.tickets) or tuple(getattr(portion.batch, "slots", ())) != order.slots:
            raise QiError(
                f"step {order.step + 1}: {len(order.tickets)} samples were ordered and {len(found)} came; see that "
                "trainer and producers are of one version"
            )

    def _forget(self) -> None:
        """What was ordered ahead is not wanted any more."""
        for step in self._steps:
            for future in step.futures:
                future.cancel()
        self._steps.clear()
