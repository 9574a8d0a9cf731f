"""Shards in the WebDataset layout, a server of them that can go wrong in many ways, and the source that reads them."""

from __future__ import annotations

import asyncio
import io
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import webdataset
from aiohttp import web
from PIL import Image

from qi_core import Place
from qi_plugins.source_webdataset.component import WebDataset
from qi_plugins.source_webdataset.live import WebSource
from support.listening import listening

SAMPLES = 5
"""A shard."""


def png(seed: int, side: int = 16) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def write(folder: Path, shards: int, samples: int = SAMPLES, **more: Callable[[int], Any]) -> Path:
    """By the library itself. ``more``: other members."""
    folder.mkdir(exist_ok=True)
    with webdataset.ShardWriter(str(folder / "s-%03d.tar"), maxcount=samples, verbose=0) as sink:
        for n in range(shards * samples):
            own = {suffix: make(n) for suffix, make in more.items()}
            sink.write({"__key__": f"n/{n:04}", "png": png(n), "txt": f"caption {n}", **own})
    return folder


def pack(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


class Server:
    """Files of a folder, with Range; and what may go wrong with it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[tuple[str, str]] = []
        """Paths and ranges."""
        self.bytes = 0
        self.failing: Counter[str] = Counter()
        """Times that a file will yet answer with 503."""
        self.missing: set[str] = set()
        self.token = ""
        self.ranges = True
        self.cut: Counter[str] = Counter()
        """Times that an answer will end in the middle."""
        self.slow = 0.0

    async def answer(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        self.asked.append((name, request.headers.get("Range", "")))
        path = self.folder / name
        if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            return web.Response(status=401)
        if self.failing[name]:
            self.failing[name] -= 1
            return web.Response(status=503, headers={"Retry-After": "0"})
        if name in self.missing or not path.is_file():
            return web.Response(status=404)
        if self.slow:
            await asyncio.sleep(self.slow)
        data = path.read_bytes()
        if not self.ranges or "Range" not in request.headers:
            return web.Response(body=data)
        start, end = map(int, request.headers["Range"].removeprefix("bytes=").split("-"))
        part = data[start : end + 1]
        if not part:
            return web.Response(status=416)
        told = {"Content-Range": f"bytes {start}-{start + len(part) - 1}/{len(data)}"}
        if not self.cut[name]:  # and no FileResponse, which leaves the file open where a client hangs up early
            return web.Response(status=206, headers=told, body=part)
        self.cut[name] -= 1
        half = web.StreamResponse(status=206, headers={**told, "Content-Length": str(len(part))})
        await half.prepare(request)
        await half.write(part[: len(part) // 2])
        assert request.transport is not None
        request.transport.close()
        return half

    @contextmanager
    def running(self) -> Iterator[str]:
        app = web.Application()
        app.router.add_get("/{name:.*}", self.answer)
        with listening(app) as url:
            yield url


def settings(tmp_path: Path, *shards: str | Path, **more: Any) -> WebDataset:
    given: dict[str, Any] = {"side": 16, "window": 2, "cache": str(tmp_path / "cache"), "patience": 5.0, **more}
    return WebDataset(shards=tuple(map(str, shards)), **given)


@contextmanager
def built(component: WebDataset, place: Place) -> Iterator[WebSource]:
    source = component.build(place, 8)
    try:
        yield source
    finally:
        source.close()


def drawn(component: WebDataset, place: Place, count: int) -> list[tuple[str, str, bytes]]:
    with built(component, place) as source:
        return [(s.key, s.prompt, s.image.permute(1, 2, 0).numpy().tobytes()) for s in source.draw(count)]
