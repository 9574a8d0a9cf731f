"""What engines have in common whose samples are made in other processes: orders are pulled from producers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

from qi_core.engine import Spec
from qi_core.errors import QiError
from qi_core.plane.client import Care, Puller
from qi_core.plane.producer import Call
from qi_core.plane.ring import Ring
from qi_core.portions import Order, Portion


class Pulling:
    """See ``qi_core.engine.Engine``. Takes any number of orders; the puller has a window of them at a time."""

    def __init__(self, producers: Sequence[str], call: Call, care: Care, pinned: bool | None = None) -> None:
        """``pinned``: as ``Workshop`` tells it; None: where there is CUDA."""
        self._recipes: dict[str, str] = {}
        self._told: dict[str, tuple[int, int, int]] = {}
        ring = Ring(care.window + 2, pinned=pinned)
        self.puller = Puller(producers, call=call, care=care, define=self._recipes.get, ring=ring)
        self._queue = ThreadPoolExecutor(1, thread_name_prefix="qi-order")  # waits for the window in the loop's place

    def begin(self, spec: Spec) -> None:
        self._recipes[spec.digest] = spec.recipe

    def carry_out(self, order: Order) -> Future[Portion]:
        done: Future[Portion] = Future()
        self._queue.submit(self._give, order, done)
        return done

    def figures(self) -> Mapping[str, float]:
        """What came since the last call, and how often something had to be asked for again."""
        portions = received = again = 0
        for each in self.puller.counted():
            now = (each.portions, each.bytes, each.gone + each.damaged + each.busy + each.slow)
            before = self._told.get(each.address, (0, 0, 0))
            if any(new < old for new, old in zip(now, before, strict=True)):  # it was away, and is counted anew
                before = (0, 0, 0)
            self._told[each.address] = now
            portions, received, again = (
                total + new - old for total, new, old in zip((portions, received, again), now, before, strict=True)
            )
        return {"producers/portions": portions, "producers/MB": received / 1e6, "producers/asked again": again}

    def close(self) -> None:
        self._queue.shutdown(wait=False, cancel_futures=True)
        self.puller.close()

    def _give(self, order: Order, done: Future[Portion]) -> None:
        if not done.set_running_or_notify_cancel():  # not wanted any more
            return
        try:
            inner = self.puller.order(order)
        except QiError as error:
            done.set_exception(error)
            return
        inner.add_done_callback(lambda future: _hand_on(future, done))


def _hand_on(inner: Future[Portion], outer: Future[Portion]) -> None:
    error = inner.exception()
    with suppress(Exception):  # nobody waits for it any more
        if error is not None:
            outer.set_exception(error)
        else:
            outer.set_result(inner.result())
