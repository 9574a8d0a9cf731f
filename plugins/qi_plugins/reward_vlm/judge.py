"""The live judge."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from attrs import evolve
from msgspec import DecodeError, Struct
from msgspec import json as msgjson
from torch import Tensor

from qi_core import Candidate, QiError, Scores
from qi_core.calls import BadAnswer, Caller, GaveUp, together
from qi_core.quotes import NO_TEXT, wanted_text
from qi_core.reward_wire import png
from qi_plugins.reward_vlm.component import VlmJudge

HEADERS = {"Content-Type": "application/json", "Accept": "application/json"}
CUT_OFF, NO_SCORE, BEYOND = "an answer that was cut off", "an answer without a score", "a score beyond the range"


class Message(Struct):
    content: str | None = None


class Choice(Struct):
    message: Message
    finish_reason: str | None = None


class Completion(Struct):
    """What is read of an answer; the rest is not looked at."""

    choices: list[Choice]


class Model(Struct):
    id: str


class Models(Struct):
    data: list[Model]


class NoVerdict(Exception):
    """Why an answer says nothing, to count by."""


UNFIT = frozenset({400, 413, 422})
"""What servers of models answer to a prompt too long, or to a picture too large or of too odd a shape."""


class Judge:
    """A live ``vlm-judge``."""

    def __init__(self, settings: VlmJudge, *, backoff: float = 0.5) -> None:
        self.settings = settings
        self._caller = Caller(settings, backoff=backoff, unfit=UNFIT)

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
            choice = await self._caller.call("/chat/completions", read, body, HEADERS)
            return verdict(self.settings, choice)
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
        "messages": [{"role": "user", "content": [*map(as_url, shown), {"type": "text", "text": asked}]}],
        "temperature": 0,
        "seed": settings.seed,
        "max_tokens": settings.max_tokens,
    }


def as_url(picture: Tensor) -> dict[str, Any]:
    """A picture as part of a message: PNG, without loss."""
    return {
        "type": "image_url",
        "image_url": {"url": "data:image/png;base64," + base64.b64encode(png(picture)).decode()},
    }


def read(content: bytes) -> Choice:
    try:
        return msgjson.decode(content, type=Completion).choices[0]
    except (DecodeError, UnicodeDecodeError, RecursionError, IndexError) as error:
        raise BadAnswer("an answer that is none") from error


def verdict(settings: VlmJudge, choice: Choice) -> float:
    """The score in an answer, within the range. Raises NoVerdict."""
    if choice.finish_reason == "length":
        raise NoVerdict(CUT_OFF)
    text = choice.message.content or ""
    score = _by_key(text, settings.key) if settings.key else _by_pattern(text, settings.pattern)
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
    decoder, start, score = json.JSONDecoder(), text.find("{"), None
    while start >= 0:
        try:
            value, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            end = start + 1
        else:
            if key in value:
                score = value[key]
        start = text.find("{", end)
    try:
        return _number(float(score)) if isinstance(score, int | float) and not isinstance(score, bool) else None
    except OverflowError:  # a whole number of hundreds of digits
        return None


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def build(settings: VlmJudge) -> Judge:
    """Asks the server for its models. Raises QiError unless it answers, and where it has others but not this one."""
    with ThreadPoolExecutor(1) as own:  # a thread of its own: the caller's may have an event loop
        names = own.submit(asyncio.run, models_of(settings)).result()
    if settings.model not in names:
        raise QiError(
            f"reward vlm-judge: {settings.url} has no model {settings.model!r}; it has {', '.join(names) or 'none'}; "
            "set model to one of them"
        )
    return Judge(settings)


async def models_of(settings: VlmJudge) -> list[str]:
    caller = Caller(evolve(settings, retries=min(settings.retries, 3)))
    try:
        return await caller.call("/models", read_models, headers={"Accept": "application/json"})
    except GaveUp as error:
        raise QiError(
            f"reward vlm-judge: {settings.url}: {error}; wanted an OpenAI-compatible server; "
            "start one there, or set url (it ends in /v1)"
        ) from error
    finally:
        await caller.close()


def read_models(content: bytes) -> list[str]:
    try:
        return [model.id for model in msgjson.decode(content, type=Models).data]
    except (DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadAnswer("an answer that is none") from error
