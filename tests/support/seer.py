"""A vision-language model for tests: a real HTTP server that speaks OpenAI's chat completions, well or badly."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any

from aiohttp import web
from PIL import Image

from support.listening import listening

Say = Callable[[dict[str, Any]], Any]
"""From the body of a request to an answer's text, or to a whole response (which may be awaited)."""


@contextmanager
def seer(say: Say, key: str = "") -> Iterator[str]:
    """Its address; its one model is called "seer"."""

    async def models(request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "seer"}]})

    async def complete(request: web.Request) -> web.StreamResponse:
        if key and request.headers.get("Authorization") != f"Bearer {key}":
            return web.json_response({"error": "no"}, status=401)
        said = say(await request.json())
        if not isinstance(said, str | web.StreamResponse):
            said = await said
        return said if isinstance(said, web.StreamResponse) else completion(said)

    app = web.Application(client_max_size=2**24)
    app.add_routes([web.get("/v1/models", models), web.post("/v1/chat/completions", complete)])
    with listening(app) as url:
        yield f"{url}/v1"


def completion(text: str, finish: str = "stop") -> web.Response:
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": finish}
    return web.json_response({"choices": [choice], "usage": {"prompt_tokens": 100, "completion_tokens": 20}})


def annotation(caption: str, **others: Any) -> str:
    """An answer as it should be, but for ``others`` (keys as in the JSON)."""
    told = {
        "Caption": caption,
        "Image Type": "photograph",
        "Image Style": "realistic",
        "Watermark List": [],
        "Abnormal Element": "no",
    }
    return json.dumps({**told, **others}, ensure_ascii=False)


def shown(body: dict[str, Any]) -> Image.Image:
    """The picture of a request."""
    (url,) = (part["image_url"]["url"] for part in body["messages"][0]["content"] if part["type"] == "image_url")
    kind, _, data = url.partition(";base64,")
    assert kind == "data:image/jpeg"
    return Image.open(BytesIO(base64.b64decode(data)))


def question(body: dict[str, Any]) -> str:
    """The words of a request's first message."""
    return next(str(part["text"]) for part in body["messages"][0]["content"] if part["type"] == "text")


def reason(body: dict[str, Any]) -> str:
    """Why it was asked again; empty if it is asked for the first time."""
    return str(body["messages"][2]["content"][0]["text"]) if len(body["messages"]) > 2 else ""
