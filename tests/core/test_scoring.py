"""Rewards beside the run: at once, in order, with every failure counted; and ended whatever they are doing."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import CancelledError

import pytest
from attrs import define, field

from qi_core import Candidate, QiError, Scores
from qi_core.scoring import Scorer, checked
from qi_core.testing.rewards import some_candidates


@define
class Fake:
    """Gives these scores, after all of ``meets`` have come this far."""

    scores: Scores
    meets: threading.Barrier | None = None
    error: Exception | None = None
    hangs: bool = False
    began: threading.Event = field(factory=threading.Event)
    ended: list[str] = field(factory=list)

    async def score(self, candidates: Sequence[Candidate]) -> Scores:
        self.began.set()
        try:
            if self.meets:
                await asyncio.to_thread(self.meets.wait, 10)
            if self.error:
                raise self.error
            if self.hangs:
                await asyncio.sleep(3600)
        except asyncio.CancelledError:
            self.ended.append("cancelled")
            raise
        return self.scores

    async def close(self) -> None:
        self.ended.append("closed")


TWO = some_candidates(2)


def test_all_rewards_judge_at_once_and_so_do_several_batches() -> None:
    barrier = threading.Barrier(4)  # two rewards, two batches: nobody goes on before all are there
    first, second = (Fake(Scores(values=values), meets=barrier) for values in ((0.0, 1.0), (2.0, None)))
    with Scorer({"first": first, "second": second}) as scorer:
        for future in [scorer.submit(TWO), scorer.submit(TWO)]:
            found = future.result(timeout=20)
            assert found["first"].values == (0.0, 1.0)
            assert found["second"].values == (2.0, None)
    assert first.ended == second.ended == ["closed"]


def test_an_error_of_one_reward_comes_out_and_ends_the_others_work() -> None:
    fails, hangs = Fake(Scores(values=()), error=QiError("gone")), Fake(Scores(values=()), hangs=True)
    with Scorer({"fails": fails, "hangs": hangs}) as scorer:
        with pytest.raises(QiError, match="gone") as error:
            scorer.submit(TWO).result(timeout=20)
        assert error.value.__notes__ == ["while the reward 'fails' judged 2 pictures"]
        assert hangs.ended == ["cancelled"]


def test_closing_does_not_wait_for_a_reward_that_hangs() -> None:
    hangs = Fake(Scores(values=()), hangs=True)
    scorer = Scorer({"hangs": hangs})
    future = scorer.submit(TWO)
    assert hangs.began.wait(20)
    scorer.close()
    scorer.close()
    assert hangs.ended == ["cancelled", "closed"]
    with pytest.raises(CancelledError):
        future.result(timeout=1)
    with pytest.raises(QiError, match="closed already"):
        scorer.submit(TWO)


def test_no_pictures_are_no_question() -> None:
    with Scorer({"fails": Fake(Scores(values=()), error=QiError("asked"))}) as scorer:
        assert scorer.submit([]).result(timeout=20) == {"fails": Scores(values=())}


def test_what_is_no_finite_number_is_none_and_every_none_is_counted() -> None:
    nan, inf = float("nan"), float("inf")
    given = Scores(values=(1.0, nan, None, -inf, None), parts={"raw": (nan, 1, 2, 3, None)}, failures={"blank": 1})
    assert checked("any", given, 5) == Scores(
        values=(1.0, None, None, None, None),
        parts={"raw": (None, 1, 2, 3, None)},
        failures={"blank": 1, "no finite number": 2, "no reason told": 1},
    )


@pytest.mark.parametrize("scores", [Scores(values=(1.0,)), Scores(values=(1.0, 2.0), parts={"raw": (1.0,)})])
def test_a_value_too_few_is_an_error(scores: Scores) -> None:
    with pytest.raises(QiError, match="for 2 pictures; wanted one each"):
        checked("any", scores, 2)
