"""Asking a vision-language model behind an OpenAI-compatible address (vLLM, SGLang, ...)."""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from json import JSONDecoder
from typing import Any

from attrs import evolve, frozen
from msgspec import DecodeError, Struct
from msgspec import json as msgjson

from qi_core.calls import BadAnswer, Caller, Endpoint, GaveUp
from qi_core.errors import QiError

PATH = "/chat/completions"
HEADERS = {"Content-Type": "application/json", "Accept": "application/json"}
UNFIT = frozenset({400, 413, 422})
"""What servers of models answer to a prompt too long, or to a picture too large or of too odd a shape."""
CUT_OFF = "an answer that was cut off"
NONE = "an answer that is none"


class _Message(Struct):
    content: str | None = None


class _Choice(Struct):
    message: _Message
    finish_reason: str | None = None


class _Usage(Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Completion(Struct):
    """What is read of an answer; the rest is not looked at."""

    choices: list[_Choice]
    usage: _Usage | None = None


class _Model(Struct):
    id: str


class _Models(Struct):
    data: list[_Model]


@frozen(kw_only=True)
class Reply:
    """What a model said."""

    text: str
    cut_off: bool = False
    """It reached ``max_tokens``."""
    asked: int = 0
    """Tokens of what it was asked, where the server tells."""
    said: int = 0
    """Tokens of what it said, what it thought included."""


def reply(content: bytes) -> Reply:
    """Of the body of an answer. Raises BadAnswer."""
    try:
        completion = msgjson.decode(content, type=_Completion)
        choice = completion.choices[0]
    except (DecodeError, UnicodeDecodeError, RecursionError, IndexError) as error:
        raise BadAnswer(NONE) from error
    usage = completion.usage or _Usage()
    return Reply(
        # Models that think aloud do so before they answer, where the server does not take it out.
        text=re.sub(r"\A\s*<think>.*?</think>", "", choice.message.content or "", flags=re.DOTALL),
        cut_off=choice.finish_reason == "length",
        asked=max(usage.prompt_tokens or 0, 0),
        said=max(usage.completion_tokens or 0, 0),
    )


def objects(text: str, decoder: JSONDecoder) -> Iterator[dict[str, Any]]:
    """The JSON objects in an answer that stand in no other, whatever is written around them."""
    start = text.find("{")
    while start >= 0:
        try:
            value, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            end = start + 1
        else:
            yield value
        start = text.find("{", end)


def picture(file: bytes, kind: str = "png") -> dict[str, Any]:
    """The bytes of a PNG or "jpeg" as part of a message."""
    url = f"data:image/{kind};base64,{base64.b64encode(file).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def words(text: str) -> dict[str, Any]:
    """A text as part of a message."""
    return {"type": "text", "text": text}


def require_model(endpoint: Endpoint, model: str, who: str, model_is: str) -> None:
    """Raises QiError unless the server answers, and where it has other models but not this one.

    ``who`` stands before messages; ``model_is``: where the user gives it.
    """
    with ThreadPoolExecutor(1) as own:  # a thread of its own: the caller's may have an event loop
        names = own.submit(asyncio.run, _models_of(endpoint, who)).result()
    if model not in names:
        raise QiError(
            f"{who}: {endpoint.url} has no model {model!r}; it has {', '.join(names) or 'none'}; "
            f"set {model_is} to one of them"
        )


async def _models_of(endpoint: Endpoint, who: str) -> list[str]:
    caller = Caller(evolve(endpoint, retries=min(endpoint.retries, 3)))
    try:
        return await caller.call("/models", _names, headers={"Accept": "application/json"})
    except GaveUp as error:
        raise QiError(
            f"{who}: {endpoint.url}: {error}; wanted an OpenAI-compatible server; "
            "start one there, or give another address (it ends in /v1)"
        ) from error
    finally:
        await caller.close()


def _names(content: bytes) -> list[str]:
    try:
        return [model.id for model in msgjson.decode(content, type=_Models).data]
    except (DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadAnswer(NONE) from error
