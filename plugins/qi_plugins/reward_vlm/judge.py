"""The live judge."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from qi_core import Candidate, QiError, Scores, chat
from qi_core.calls import Caller, GaveUp, together
from qi_core.chat import CUT_OFF, Reply
from qi_core.quotes import NO_TEXT, wanted_text
from qi_core.reward_wire import png
from qi_plugins.reward_vlm.component import VlmJudge

NO_SCORE, BEYOND = "an answer without a score", "a score beyond the range"


class NoVerdict(Exception):
    """Why an answer says nothing, to count by."""


class Judge:
    """A live ``vlm-judge``."""

    def __init__(self, settings: VlmJudge, *, backoff: float = 0.5) -> None:
        self.settings = settings
        self._caller = Caller(settings, backoff=backoff, unfit=chat.UNFIT)

    async def score(self, candidates: Sequence[Candidate]) -> Scores:
        """See ``Reward.score``."""
        found = await together([self._one(candidate) for candidate in candidates])
        given = tuple(score if isinstance(score, float) else None for score in found)
        return Scores(
            values=tuple(None if score is None else self._within(score) for score in given),
            parts={"score": given},
            failures=dict(Counter(reason for reason in found if isinstance(reason, str))),
        )

    def _within(self, score: float) -> float:
        return (score - self.settings.lowest) / (self.settings.highest - self.settings.lowest)

    async def _one(self, candidate: Candidate) -> float | str:
        """The score as it was given, or why there is none."""

        if "{text}" in self.settings.question and not wanted_text(candidate):
            return NO_TEXT

        def body() -> tuple[str, bytes]:
            data = json.dumps(question(self.settings, candidate)).encode()
            return hashlib.blake2b(data, digest_size=16).hexdigest(), data

        try:
            return verdict(self.settings, await self._caller.call(chat.PATH, chat.reply, body, chat.HEADERS))
        except NoVerdict as error:
            return str(error)
        except GaveUp as error:
            if self.settings.required:
                raise QiError(
                    f"reward vlm-judge: {self.settings.url} failed {self.settings.retries + 1} times, "
                    f"at last with {error}; start it again and resume the run"
                ) from error
            return str(error)

    async def close(self) -> None:
        """See ``Reward.close``."""
        await self._caller.close()


def question(settings: VlmJudge, candidate: Candidate) -> dict[str, Any]:
    """The body of a request (OpenAI's chat completions)."""
    words = {"{prompt}": candidate.prompt, "{text}": wanted_text(candidate)}
    asked = re.sub(r"\{prompt\}|\{text\}", lambda found: words[found[0]], settings.question)
    shown = (*(candidate.references if settings.references else ()), candidate.image)
    return {
        "model": settings.model,
        "messages": [{"role": "user", "content": [*(chat.picture(png(each)) for each in shown), chat.words(asked)]}],
        "temperature": 0,
        "seed": settings.seed,
        "max_tokens": settings.max_tokens,
    }


def verdict(settings: VlmJudge, reply: Reply) -> float:
    """The score in an answer, within the range. Raises NoVerdict."""
    if reply.cut_off:
        raise NoVerdict(CUT_OFF)
    score = _by_key(reply.text, settings.key) if settings.key else _by_pattern(reply.text, settings.pattern)
    if score is None:
        raise NoVerdict(NO_SCORE)
    low, high = sorted((settings.lowest, settings.highest))
    if not low <= score <= high:
        raise NoVerdict(BEYOND)
    return score


def _by_pattern(text: str, pattern: str) -> float | None:
    found = re.findall(pattern, text)
    try:
        return _number(float(found[-1])) if found else None
    except ValueError:
        return None


def _by_key(text: str, key: str) -> float | None:
    """From the last JSON object that has the key, whatever stands around it."""
    score = None
    for value in chat.objects(text, json.JSONDecoder()):
        score = value.get(key, score)
    try:
        return _number(float(score)) if isinstance(score, int | float) and not isinstance(score, bool) else None
    except OverflowError:  # a whole number of hundreds of digits
        return None


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def build(settings: VlmJudge) -> Judge:
    """Asks the server for its models. Raises QiError unless it answers, and where it has others but not this one."""
    chat.require_model(settings, settings.model, "reward vlm-judge", "model")
    return Judge(settings)
