"""What a step trains on follows from the plan alone: not from who makes it, when, nor for how many replicas."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

import pytest
import torch

from qi_core import QiError, Sample, Samples
from qi_core.curriculum import Pace
from qi_core.engine import Inline, Spec
from qi_core.feed import Ready
from qi_core.orders import Cut, Ordered
from qi_core.portions import Order, Portion
from qi_core.producing import Maker, joined
from support.numbered import Numbered


class Pictures(Numbered):
    """Of many sizes."""

    def sample(self, n: int) -> Sample:
        return Sample(key=f"{n}", prompt="", image=torch.full((3, 8, self.cost((n,)) // 8), n % 256, dtype=torch.uint8))

    def cost(self, ticket: tuple[int, ...]) -> int:
        return 64 * (1 + ticket[0] * 7 % 5)


class Late:
    """An engine whose portions come after all sorts of times."""

    def __init__(self, seed: int) -> None:
        self.roll, self.pool, self.spec = random.Random(seed), ThreadPoolExecutor(4), None

    def begin(self, spec: Spec) -> None:
        self.spec = spec

    def carry_out(self, order: Order) -> Future[Portion]:
        assert self.spec is not None
        return self.pool.submit(self._make, self.spec.maker, order, self.roll.random() / 100)

    def figures(self) -> dict[str, float]:
        return {}

    def close(self) -> None:
        self.pool.shutdown()

    @staticmethod
    def _make(maker: Maker, order: Order, seconds: float) -> Portion:
        time.sleep(seconds)
        return maker.make(order)


def ordered(
    engine: Late, *, step: int = 0, start: int = 0, ahead: int = 2, cut: Cut | None = None, patience: float = 10
) -> Ordered:
    """Batches of twelve."""
    source = Pictures()
    source.load_state_dict({"n": start})
    engine.begin(Spec(digest="a", recipe="", maker=Maker(source=source, seed=0)))
    cut, pace = cut or Cut(portion=4), Pace(samples=12, patch=8)
    return Ordered(source, engine, spec="a", step=step, pace=pace, ahead=ahead, cut=cut, patience=patience)


def steps(feed: Ordered, count: int) -> list[Ready]:
    with feed:
        return [feed.next() for _ in range(count)]


def keys(ready: Ready) -> list[str]:
    batch = joined([portion.batch for portion in ready.portions])
    assert isinstance(batch, Samples)
    return [sample.key for sample in batch]


@pytest.fixture
def late() -> Iterator[Late]:
    engine = Late(1)
    yield engine
    engine.close()


@pytest.mark.parametrize("ahead", [0, 1, 5])
@pytest.mark.parametrize("portion", [1, 5, 100])
def test_neither_timing_nor_portions_nor_how_far_ahead_change_a_batch(late: Late, ahead: int, portion: int) -> None:
    ready = steps(ordered(late, ahead=ahead, cut=Cut(portion=portion)), 4)
    assert [keys(each) for each in ready] == [[str(n) for n in range(12 * i, 12 * i + 12)] for i in range(4)]
    assert [each.position for each in ready] == [{"n": 12 * i} for i in range(1, 5)], "after that step, and not ahead"


@pytest.mark.parametrize("replicas", [2, 3, 8, 20])
def test_replicas_share_a_batch_out_and_do_equally_much(late: Late, replicas: int) -> None:
    cuts = [Cut(portion=4, replicas=replicas, replica=replica, accumulate=3) for replica in range(replicas)]
    shares = [steps(ordered(late, cut=cut), 2) for cut in cuts]
    for number in range(2):
        own = [share[number] for share in shares]
        dealt = [key for each in own if not each.spare for key in keys(each)]
        assert sorted(dealt, key=int) == [str(n) for n in range(12 * number, 12 * number + 12)], "each once"
        assert len({(each.passes, each.total, each.digest) for each in own}) == 1
        costs = [sum(sum(part.batch.costs) for part in each.portions) for each in own if not each.spare]
        assert max(costs) - min(costs) <= 64 * 5, "by at most one picture"


def test_ranks_may_become_more_and_fewer_in_the_middle_of_an_epoch(late: Late) -> None:
    """1, 2 and then 4 replicas: each sample once, and the batches are those of one."""
    seen: list[set[str]] = []
    position = 0
    for step, replicas in enumerate((1, 2, 4, 1)):
        found: set[str] = set()
        for replica in range(replicas):
            cut = Cut(portion=3, replicas=replicas, replica=replica)
            (ready,) = steps(ordered(late, step=step, start=position, cut=cut), 1)
            assert not found & set(keys(ready))
            found |= set(keys(ready))
        seen.append(found)
        position = ready.position["n"]
    assert seen == [{str(n) for n in range(12 * i, 12 * i + 12)} for i in range(4)]


def test_a_fence_lets_through_what_was_planned_and_nothing_after_it(late: Late) -> None:
    feed = ordered(late, ahead=2)
    with feed:
        feed.next()
        fence = feed.fence(1)
        assert fence == 3, "steps 1 and 2 are on their way"
        feed.hold(fence)
        assert [keys(feed.next())[0] for _ in range(2)] == ["12", "24"]
        source = Pictures()
        source.load_state_dict({"n": 1000})
        feed.begin(source, "b", fence, Pace(samples=2, patch=8))
        late.begin(Spec(digest="b", recipe="", maker=Maker(source=source, seed=0)))
        assert keys(feed.next()) == ["1000", "1001"]


def test_what_is_dropped_at_a_change_is_made_anew(late: Late) -> None:
    with ordered(late, ahead=3) as feed:
        first = feed.next()
        source = Pictures()
        source.load_state_dict(first.position)
        feed.begin(source, "b", 1, Pace(samples=3, patch=8))
        assert keys(feed.next()) == ["12", "13", "14"]


def test_who_waits_for_the_first_batch_takes_nothing_from_it(late: Late) -> None:
    with ordered(late) as feed:
        assert feed.begins
        feed.wait()
        assert keys(feed.next()) == [str(n) for n in range(12)]
        assert not feed.begins
        feed.begin(Pictures(), "a", 1, Pace(samples=12, patch=8))
        assert feed.begins, "after a change of the data too"


def test_samples_of_another_data_set_are_not_trained_on() -> None:
    class Others(Late):
        def carry_out(self, order: Order) -> Future[Portion]:
            done: Future[Portion] = Future()
            source = Pictures()
            items = tuple(source.sample(ticket[0] + 1) for ticket in order.tickets)
            done.set_result(Portion(batch=Samples(items=items, slots=order.slots)))
            return done

    engine = Others(0)
    with pytest.raises(
        QiError, match=r"step 1: \d+ was ordered and \d+ came; the producer's data is not the trainer's"
    ):
        steps(ordered(engine), 1)
    engine.close()


def test_a_portion_that_never_comes_ends_the_run_with_its_name() -> None:
    class Never(Late):
        def carry_out(self, order: Order) -> Future[Portion]:
            return Future()

    engine = Never(0)
    feed = ordered(engine, patience=0.05)
    with pytest.raises(QiError, match=r"step 1: portion 0 of its batch was not made within 0\.05 s"):
        steps(feed, 1)
    engine.close()


def test_the_first_batch_is_not_kept_waiting_by_those_ahead() -> None:
    gate = threading.Event()

    class Slow(Pictures):
        def sample(self, n: int) -> Sample:
            if n >= 12:
                gate.wait(10)
            return super().sample(n)

    engine = Inline(2)
    source = Slow()
    engine.begin(Spec(digest="a", recipe="", maker=Maker(source=source, seed=0)))
    feed = Ordered(source, engine, spec="a", step=0, pace=Pace(samples=12, patch=8), ahead=3, cut=Cut(portion=4))
    assert list(islice(keys(feed.next()), 2)) == ["0", "1"]
    gate.set()
    engine.close()
