"""Rewards at work beside the run: an event loop in a thread of its own, fed while sampling goes on."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Any

from attrs import evolve

from qi_core.calls import together
from qi_core.errors import QiError
from qi_core.reward import Candidate, Reward, Scores

NO_NUMBER = "no finite number"
NO_REASON = "no reason told"
"""Reasons that are counted here, where a reward gives none."""


class Scorer:
    """Several rewards by name. Use as a context manager, or call ``close``."""

    def __init__(self, rewards: Mapping[str, Reward]) -> None:
        self._rewards = dict(rewards)
        self._work: set[asyncio.Task[Any]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="qi-rewards", daemon=True)
        self._thread.start()

    def submit(self, candidates: Sequence[Candidate]) -> Future[dict[str, Scores]]:
        """Judge them by every reward, all at once, without waiting. What comes back has one value a candidate, each a
        finite number or None; as many failures are counted as there are Nones. It raises what a reward raises."""
        if not self._thread.is_alive():
            raise QiError("rewards: closed already; nothing can be judged any more")
        return asyncio.run_coroutine_threadsafe(self._all(tuple(candidates)), self._loop)

    def close(self) -> None:
        """End what is still going on, every reward, and the thread. A second call does nothing."""
        if not self._thread.is_alive():
            return
        try:
            asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def __enter__(self) -> Scorer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    async def _all(self, candidates: tuple[Candidate, ...]) -> dict[str, Scores]:
        task = asyncio.current_task()
        assert task is not None
        self._work.add(task)
        try:
            found = await together([self._one(name, candidates) for name in self._rewards])
            return dict(zip(self._rewards, found, strict=True))
        finally:
            self._work.discard(task)

    async def _one(self, name: str, candidates: tuple[Candidate, ...]) -> Scores:
        if not candidates:
            return Scores(values=())
        try:
            return checked(name, await self._rewards[name].score(candidates), len(candidates))
        except Exception as error:
            error.add_note(f"while the reward {name!r} judged {len(candidates)} pictures")
            raise

    async def _close(self) -> None:
        pending = list(self._work)
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        ended = await asyncio.gather(*(reward.close() for reward in self._rewards.values()), return_exceptions=True)
        for result in ended:
            if isinstance(result, BaseException):
                raise result


def verdict(asked: Future[dict[str, Scores]]) -> dict[str, Scores]:
    """What rewards said of what was submitted; waits for it. Raises QiError whatever they raised."""
    try:
        return asked.result()
    except QiError:
        raise
    except Exception as error:
        notes = "; ".join(getattr(error, "__notes__", ()))
        raise QiError(
            f"rewards: {type(error).__name__}: {error}{f' ({notes})' if notes else ''}; wanted a score or None a "
            "picture; mend the reward and go on from the last checkpoint"
        ) from error


def checked(name: str, scores: Scores, count: int) -> Scores:
    """The scores with None for what is no finite number, and every None counted. Raises QiError unless there is one
    value a candidate, in the parts too."""
    for what, values in {"values": scores.values, **scores.parts}.items():
        if len(values) != count:
            raise QiError(f"reward {name!r}: {len(values)} {what} for {count} pictures; wanted one each")
    values = tuple(map(_finite, scores.values))
    parts = {part: tuple(map(_finite, found)) for part, found in scores.parts.items()}
    failures = dict(scores.failures)
    if strange := values.count(None) - scores.values.count(None):
        failures[NO_NUMBER] = failures.get(NO_NUMBER, 0) + strange
    if (untold := values.count(None) - sum(failures.values())) > 0:
        failures[NO_REASON] = failures.get(NO_REASON, 0) + untold
    return evolve(scores, values=values, parts=parts, failures=failures)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
