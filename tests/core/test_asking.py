"""Ranks that fail together, and rank 0 that asks the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qi_core import QiError
from qi_core.asking import led, together
from support.replicas import Replica, all_well, on_ranks


def failing(error: Exception, *ranks: int) -> list[str]:
    """What each of three raises where some fail."""

    def fails(replica: Replica) -> str:
        def work() -> str:
            if replica.team.rank in ranks:
                raise error
            return "well"

        return together(replica.team, work)

    return [repr(one) for one in on_ranks(3, fails)]


def test_what_fails_on_one_rank_fails_on_all() -> None:
    """In the same words, which are told to a person once."""
    assert failing(QiError("no room"), 1) == ["QiError('rank 1: no room')"] * 3
    assert failing(QiError("no room"), 1, 2) == ["QiError('rank 1: no room')"] * 3
    assert failing(QiError("no room"), 0, 1, 2) == ["QiError('no room')"] * 3
    other = "QiError('rank 1: ValueError: no such font')"
    assert failing(ValueError("no such font"), 1) == [other, "ValueError('no such font')", other]
    assert all_well(on_ranks(2, lambda replica: together(replica.team, lambda: replica.replica))) == [0, 1]


def leading(work: Callable[[Any], Any], jobs: Callable[[Replica], dict[str, Callable[..., Any]]]) -> list[Any]:
    return on_ranks(2, lambda replica: led(replica.team, jobs(replica), work))


def test_rank_0_works_and_all_do_what_it_asks() -> None:
    def gathers(replica: Replica) -> dict[str, Callable[..., Any]]:
        return {"add": lambda value, *, more: sum(replica.team.gather(value + more + replica.replica))}

    assert leading(lambda ask: (ask("add", 10, more=1), ask("add", 0, more=0)), gathers) == [(23, 1), None]


def test_a_job_that_fails_is_rank_0s_to_judge() -> None:
    def fails_beside(replica: Replica) -> dict[str, Callable[..., Any]]:
        def work() -> str:
            if replica.replica:
                raise QiError("no room")
            return "painted"

        return {"paint": lambda: together(replica.team, work), "name": lambda: replica.team.gather("again")}

    def bears_it(ask: Any) -> Any:
        try:
            ask("paint")
        except QiError as error:
            return str(error), ask("name")

    assert leading(bears_it, fails_beside) == [("rank 1: no room", ["again", "again"]), None]
    zero, one = leading(lambda ask: ask("paint"), fails_beside)
    assert str(zero) == str(one) == "rank 1: no room"


def test_where_rank_0_fails_the_others_are_told() -> None:
    def work(ask: Any) -> Any:
        ask("nothing")
        raise KeyError("step")

    zero, one = leading(work, lambda _: {"nothing": lambda: None})
    assert isinstance(zero, KeyError)
    assert str(one) == "rank 0: KeyError: 'step'"
