"""The live reward."""

from __future__ import annotations

import asyncio
import threading
import unicodedata
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from qi_core import Candidate, Scores
from qi_core.ocr import Engine
from qi_core.quotes import NO_TEXT, wanted_text
from qi_plugins.reward_ocr.component import Ocr


class Reading:
    """A live ``ocr``: so many readers, each in a thread of its own."""

    def __init__(self, settings: Ocr, engines: Sequence[Engine]) -> None:
        self.settings = settings
        self._free = list(engines)
        self._own = threading.local()
        self._pool = ThreadPoolExecutor(len(self._free), "qi-ocr", initializer=self._take)

    def _take(self) -> None:
        self._own.engine = self._free.pop()

    async def score(self, candidates: Sequence[Candidate]) -> Scores:
        """See ``Reward.score``."""
        loop = asyncio.get_running_loop()
        found = await asyncio.gather(
            *(loop.run_in_executor(self._pool, self._one, candidate) for candidate in candidates)
        )
        values = tuple(None if isinstance(value, str) else value for value in found)
        return Scores(
            values=values,
            parts={"exact": tuple(None if value is None else float(value == 1.0) for value in values)},
            failures=dict(Counter(reason for reason in found if isinstance(reason, str))),
        )

    def _one(self, candidate: Candidate) -> float | str:
        """The score, or why there is none. One picture at a time: so its score cannot depend on the others."""
        text = normal(wanted_text(candidate), self.settings)
        if not text:
            return NO_TEXT
        picture = candidate.image.permute(1, 2, 0).cpu().numpy()
        try:
            lines = self._own.engine.lines(picture)
        except Exception as error:  # whatever the reader cannot digest is this picture's, not the run's
            return f"the reader failed ({type(error).__name__})"
        read = " ".join(line.text for line in lines if line.confidence >= self.settings.least)
        return agreement(normal(read, self.settings), text)

    async def close(self) -> None:
        """See ``Reward.close``."""
        await asyncio.to_thread(self._pool.shutdown, cancel_futures=True)


def build(settings: Ocr) -> Reading:
    """Raises QiError where packages or models are missing."""
    return Reading(settings, [Engine(settings, "reward ocr") for _ in range(settings.workers)])


def normal(text: str, settings: Ocr) -> str:
    """As far as differences count."""
    text = unicodedata.normalize("NFKC", text)
    if not settings.case:
        text = text.casefold()
    return (" " if settings.spaces else "").join(text.split())


def agreement(read: str, text: str) -> float:
    """max(0, 1 - Levenshtein distance / length of the wanted text)."""
    from rapidfuzz.distance import Levenshtein

    return max(0.0, 1.0 - Levenshtein.distance(read, text) / len(text))
