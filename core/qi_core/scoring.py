"""Rewards at work beside the run: an event loop in a thread of its own, fed while sampling goes on."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from types import TracebackType

from qi_core.errors import QiError
from qi_core.reward import Candidate, Reward, Scores


class Scorer:
    """Several rewards by name. Use as a context manager, or call ``close``."""

    def __init__(self, rewards: Mapping[str, Reward]) -> None:
        self._rewards = dict(rewards)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="qi-rewards", daemon=True)
        self._thread.start()

    def submit(self, candidates: Sequence[Candidate]) -> Future[dict[str, Scores]]:
        """Judge them by every reward, all at once, without waiting. What comes back has one value a candidate, each a
        finite number or None."""
        return asyncio.run_coroutine_threadsafe(self._all(list(candidates)), self._loop)

    def close(self) -> None:
        """End every reward and the thread."""
        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def __enter__(self) -> Scorer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    async def _all(self, candidates: list[Candidate]) -> dict[str, Scores]:
        found = await asyncio.gather(*(reward.score(candidates) for reward in self._rewards.values()))
        return {name: checked(name, scores, len(candidates)) for name, scores in zip(self._rewards, found, strict=True)}

    async def _close(self) -> None:
        for reward in self._rewards.values():
            await reward.close()


def checked(name: str, scores: Scores, count: int) -> Scores:
    """The scores with what is no finite number as None, counted. Raises QiError unless there is one a candidate."""
    from attrs import evolve

    if len(scores.values) != count:
        raise QiError(f"reward {name!r}: {len(scores.values)} values for {count} pictures; wanted one each")
    strange = [value is not None and not math.isfinite(value) for value in scores.values]
    if not any(strange):
        return scores
    values = tuple(None if odd else value for value, odd in zip(scores.values, strange, strict=True))
    failures = {**scores.failures, "no finite number": scores.failures.get("no finite number", 0) + sum(strange)}
    return evolve(scores, values=values, failures=failures)
