"""Ranks that must not fall apart: all fail if one fails, and one may ask what all have to answer together.

A rank that gives up alone leaves the others waiting in the next thing that all of them do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, TypeAlias, TypeVar, cast

from attrs import field, frozen

from qi_core.errors import QiError
from qi_core.parallel import Team

T = TypeVar("T")

Ask: TypeAlias = Callable[..., Any]
"""Called with the name of a job and its arguments."""


@frozen(eq=False)
class _Failed:
    error: Exception


@frozen(eq=False)
class _Job:
    name: str
    arguments: tuple[Any, ...]
    named: Mapping[str, Any] = field(factory=dict)


@frozen
class _Over:
    failure: str = ""


def together(team: Team, work: Callable[[], T]) -> T:
    """What ``work`` gives on this rank. Where it fails on one, all raise, in the same words: a QiError that names the
    rank and what it said. (A rank that fails by no QiError raises what it has; so do all, if all fail alike.) Called by
    every rank."""
    done = _tried(work)
    told = team.gather(_said(done.error) if isinstance(done, _Failed) else "")
    rank = next((rank for rank, failure in enumerate(told) if failure), None)
    if rank is None:
        assert not isinstance(done, _Failed)
        return done
    own = done.error if isinstance(done, _Failed) else None
    if own is not None and (len(set(told)) == 1 or not isinstance(own, QiError)):
        raise own
    raise QiError(f"rank {rank}: {told[rank]}") from own


def led(team: Team, jobs: Mapping[str, Callable[..., Any]], work: Callable[[Ask], T]) -> T | None:
    """What ``work`` gives on rank 0; the others get None. Called by every rank, and done by rank 0 alone but for the
    ``jobs`` that it asks for, which all ranks do at once, with the arguments that rank 0 gave.

    A job that fails must fail on all ranks (see ``together``); rank 0 decides what comes of it. Where ``work`` fails,
    the others raise a QiError in the same words.
    """
    if team.rank:
        _answer(team, jobs)
        return None

    def ask(name: str, *arguments: Any, **named: Any) -> Any:
        told = team.send(_Job(name, arguments, named))
        return jobs[name](*told.arguments, **told.named)

    try:
        found = work(ask)
    except BaseException as error:  # a second Ctrl-C too
        with suppress(RuntimeError):  # the ranks are cut off from each other: that is told by what was raised
            team.send(_Over(_said(error) if isinstance(error, QiError) else f"rank 0: {_said(error)}"))
        raise
    team.send(_Over())
    return found


def _answer(team: Team, jobs: Mapping[str, Callable[..., Any]]) -> None:
    """Do what rank 0 asks for until it is through."""
    last: Exception | None = None
    while True:
        told = team.send(cast("_Job | _Over", None))  # what this rank gives is not looked at
        if isinstance(told, _Over):
            if told.failure:
                raise QiError(told.failure) from last
            return
        done = _tried(partial(jobs[told.name], *told.arguments, **told.named))
        last = done.error if isinstance(done, _Failed) else None


def _tried(work: Callable[[], T]) -> T | _Failed:
    try:
        return work()
    except Exception as error:
        return _Failed(error)


def _said(error: BaseException) -> str:
    return str(error) if isinstance(error, QiError) and str(error) else f"{type(error).__name__}: {error}"
