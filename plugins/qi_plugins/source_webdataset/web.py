"""Parts of files behind HTTP(S). Every server is taken to be slow, to fail, and to lie about what it sends."""

from __future__ import annotations

import asyncio
import os
import re
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import CancelledError
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, BinaryIO, TypeVar
from urllib.parse import urlsplit

from attrs import frozen

from qi_core.calls import AGAIN, clean_token, pause, read_token, seconds_of
from qi_core.errors import QiError
from qi_core.pixels import Unusable

if TYPE_CHECKING:
    from aiohttp import ClientResponse, ClientSession

T = TypeVar("T")
SLOWEST = 2**16
"""Bytes a second below which a whole shard is given up after ``patience``."""
_CHUNK = 2**18


class Unreached(Unusable):
    """A server did not give what was asked for in all the time that there was."""


class NoParts(QiError):
    """The server gives files whole."""


class _Again(Exception):
    """What may pass; the text says what it was."""

    def __init__(self, reason: str, after: float = 0.0) -> None:
        super().__init__(reason)
        self.after = after


@frozen
class Part:
    """What came."""

    data: bytes
    total: int
    """Bytes of the whole file."""
    version: str
    """Of the file: it was changed if it has another."""


def token_of(env: str, file: str) -> str:
    """Empty if none is wanted. Raises QiError if it isn't where it should be."""
    if env and file:
        raise QiError("source.token_env and source.token_file are both set; keep one")
    if file:
        return read_token(Path(file))
    return clean_token(os.environ.get(env, ""), f"the environment variable {env}") if env else ""


class Web:
    """Calls from any thread; an event loop of its own makes them."""

    def __init__(self, *, token: str, timeout: float, patience: float, in_flight: int, backoff: float = 0.5) -> None:
        """``backoff``: seconds before the second try, at most."""
        self._token, self._timeout, self._patience = token, timeout, patience
        self._in_flight, self._backoff = in_flight, backoff
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closed = False
        self._session: ClientSession | None = None
        self._down: set[str] = set()
        """Hosts that were given up: they get one try a request until one succeeds."""

    def part(self, url: str, start: int, length: int) -> Part:
        """A stretch of the file, cut off at its end. Raises Unusable if it isn't to be had, NoParts, and QiError where
        no try could do better."""

        async def once(session: ClientSession) -> Part:
            asked = {"Range": f"bytes={start}-{start + length - 1}"}
            async with session.get(url, headers=asked) as answer:
                _refuse(answer)
                total = _total(answer, url, start, length)
                wanted = min(length, max(total - start, 0))
                data = bytearray()
                async for chunk in answer.content.iter_chunked(_CHUNK):
                    data += chunk
                    if len(data) > wanted:
                        raise _Again("more bytes than were asked for")
                if len(data) < wanted:
                    raise _Again("an answer that was cut off")
                return Part(bytes(data), total, _version(answer, total))

        return self._called(url, f"{url}/{start}", once, self._patience)

    def whole(self, url: str, file: BinaryIO, most: int) -> tuple[int, str]:
        """All of the file into ``file``, which is empty; its bytes and version."""

        async def once(session: ClientSession) -> tuple[int, str]:
            file.seek(0)
            file.truncate()
            async with session.get(url) as answer:
                _refuse(answer)
                total = answer.content_length
                if total is not None and total > most:
                    raise Unusable("shard too large", f"{total} bytes, {most} allowed")
                begun, came = monotonic(), 0
                async for chunk in answer.content.iter_chunked(_CHUNK):
                    came += len(chunk)
                    if came > most:
                        raise Unusable("shard too large", f"more than {most} bytes")
                    if monotonic() - begun > self._patience + came / SLOWEST:
                        raise _Again(f"{came} bytes in {monotonic() - begun:.0f} s")
                    await asyncio.to_thread(_written, file, chunk)
                if total is not None and came < total:
                    raise _Again("an answer that was cut off")
                return came, _version(answer, came)

        return self._called(url, url, once, None)

    def close(self) -> None:
        """Ends what is still going on."""
        with self._lock:
            loop, self._loop, self._closed = self._loop, None, True
        if loop is not None and self._thread is not None:
            asyncio.run_coroutine_threadsafe(self._ended(), loop).result(timeout=30)
            loop.call_soon_threadsafe(loop.stop)
            self._thread.join(timeout=30)
            loop.close()

    async def _ended(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    def _called(self, url: str, name: str, once: Callable[[ClientSession], Awaitable[T]], at_most: float | None) -> T:
        """``at_most``: seconds of one try."""
        loop = self._running()
        try:
            return asyncio.run_coroutine_threadsafe(self._tries(url, name, once, at_most), loop).result()
        except CancelledError as error:
            raise Unreached("cannot be reached", "the source is closed") from error

    async def _tries(
        self, url: str, name: str, once: Callable[[ClientSession], Awaitable[T]], at_most: float | None
    ) -> T:
        import aiohttp

        session, host = self._ready(), urlsplit(url).netloc
        end, turn = monotonic() + self._patience, 0
        while True:
            try:
                async with asyncio.timeout(at_most):
                    found = await once(session)
                self._down.discard(host)
                return found
            except _Again as error:
                told, after = str(error), error.after
            except TimeoutError:
                told, after = "no answer in time", 0.0
            except aiohttp.InvalidURL as error:
                raise QiError(f"source.shards: {_plain(url)} is no address that can be called") from error
            except (aiohttp.TooManyRedirects, aiohttp.ClientConnectorCertificateError) as error:
                raise QiError(f"{_plain(url)}: {type(error).__name__}; look at the address and its server") from error
            except (aiohttp.ClientError, OSError) as error:
                told, after = f"no connection, or a broken one ({type(error).__name__})", 0.0
            turn += 1
            wait = max(pause(name, turn, self._backoff), after)
            if host in self._down or monotonic() + wait > end:
                self._down.add(host)
                raise Unreached("cannot be reached", f"{_plain(url)}: {turn} tries, at last {told}")
            await asyncio.sleep(wait)

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._closed:
                raise Unreached("cannot be reached", "the source is closed")
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._loop.run_forever, name="qi-web", daemon=True)
                self._thread.start()
            return self._loop

    def _ready(self) -> ClientSession:
        """A session must be made inside the loop that it lives in. A token is not sent on to where a server sends us:
        aiohttp drops it when the host changes."""
        if self._session is None:
            import aiohttp

            headers = {"Accept-Encoding": "identity"}  # parts of a compressed answer are parts of another file
            if self._token:
                headers["Authorization"] = f"Bearer {self._token}"
            self._session = aiohttp.ClientSession(
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._timeout, sock_read=self._timeout),
                connector=aiohttp.TCPConnector(limit=self._in_flight),
                trust_env=True,
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session


def _written(file: BinaryIO, chunk: bytes) -> None:
    try:
        file.write(chunk)
    except OSError as error:
        raise QiError(
            f"{file.name}: cannot be written ({error.strerror}); make room, or set source.cache to a folder that has it"
        ) from error


def _refuse(answer: ClientResponse) -> None:
    """Raises for all but what was asked for."""
    status, shown = answer.status, _plain(str(answer.url))
    if status in (200, 206):
        if answer.headers.get("Content-Encoding", "identity") != "identity":
            raise QiError(f"{shown}: the server answers compressed although it was asked not to; use another address")
        return
    if status in (404, 410):
        raise Unusable("is not there", f"{shown}: status {status}")
    if status == 416:
        raise Unusable("broken tar shard", f"{shown}: no such part of it")
    if status >= 500 or status in AGAIN:
        raise _Again(f"status {status}", seconds_of(answer.headers.get("Retry-After", "")))
    hint = "give its token by token_env or token_file" if status in (401, 403) else "look at the address"
    raise QiError(f"{shown}: the server answers {status}; {hint}")


def _total(answer: ClientResponse, url: str, start: int, length: int) -> int:
    """Bytes of the file that a part is of."""
    if answer.status == 200:
        if start == 0 and answer.content_length is not None and answer.content_length <= length:
            return answer.content_length
        raise NoParts(
            f"{_plain(url)}: the server gives no parts of files (it does not know Range), which random access needs; "
            "set source.keep = 'shards' to fetch them whole"
        )
    found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", answer.headers.get("Content-Range", ""))
    if not found or int(found[1]) != start or int(found[2]) != min(start + length, int(found[3])) - 1:
        raise _Again("another part than was asked for")
    return int(found[3])


def _version(answer: ClientResponse, total: int) -> str:
    return f"{answer.headers.get('ETag') or answer.headers.get('Last-Modified', '')}/{total}"


def _plain(url: str) -> str:
    """For messages: a query may hold a signature."""
    return url.partition("?")[0]
