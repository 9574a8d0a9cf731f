"""Calls to a server that may fail, hang, or die and come back: settings that its clients share, and the retries."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import re
from collections.abc import Callable, Coroutine, Mapping, Sequence
from email.utils import parsedate_to_datetime
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from attrs import Attribute, field, frozen, validators

from qi_core.errors import QiError
from qi_core.pace import Pace

if TYPE_CHECKING:
    from aiohttp import ClientResponse, ClientSession

T = TypeVar("T")
AGAIN = frozenset({408, 425, 429})
"""Statuses below 500 after which the same call may do better (RFC 9110, 8470, 6585)."""
MOST = 16 * 2**20
"""Bytes of an answer that are read; more is no answer to a score."""
LONGEST_WAIT = 30.0
"""Seconds between two tries, at most."""


class BadAnswer(Exception):
    """Not what was asked for; the text is a reason to count by. The call is made again."""

    def __init__(self, reason: str = "", after: float = 0.0) -> None:
        """``after``: seconds that the server wants to be left alone."""
        super().__init__(reason)
        self.after = after


class GaveUp(Exception):
    """Every try failed; the text is the last reason, to count by."""


class Unfit(GaveUp):
    """The server won't take what was asked, and has nothing against other calls."""

    def __init__(self, reason: str, detail: str = "") -> None:
        """``detail``: what it says to that."""
        super().__init__(reason)
        self.detail = detail


def _is_url(_: object, attribute: Attribute[str], value: str) -> None:
    found = urlsplit(value)
    if found.scheme not in ("http", "https") or not found.hostname or found.username or found.query or found.fragment:
        raise ValueError(
            f"'{attribute.name}' is {value!r}; wanted http://HOST:PORT or https://HOST, with a path if need be "
            "(a token belongs into token_env or token_file)"
        )


@frozen(kw_only=True)
class Endpoint:
    """A server, and how much patience to have with it."""

    url: str = field(validator=_is_url)
    """Where it listens: "http://127.0.0.1:8471"."""
    token_env: str = ""
    """The environment variable that holds the bearer token, where the server wants one."""
    token_file: str = ""
    """Or the file that holds it."""
    timeout: float = field(default=120.0, validator=validators.gt(0))
    """Seconds to wait for one answer."""
    retries: int = field(default=8, validator=validators.ge(0))
    """Further tries after one that failed. They lie 0.25 to 0.5 s apart, then twice that and so on, up to 30 s: eight
    bridge about a minute and a half."""
    in_flight: int = field(default=4, validator=validators.gt(0))
    """Calls at once."""
    required: bool = False
    """When every try has failed: true ends the run with an error; false leaves those pictures out of training,
    counted."""

    def headers(self) -> dict[str, str]:
        """With the token. Raises QiError if it isn't where the settings say."""
        if self.token_env and self.token_file:
            raise QiError(f"{self.url}: both token_env and token_file are set; keep one")
        if self.token_env:
            token, where = os.environ.get(self.token_env, ""), f"the environment variable {self.token_env}"
        elif self.token_file:
            return {"Authorization": f"Bearer {read_token(Path(self.token_file))}"}
        else:
            return {}
        return {"Authorization": f"Bearer {clean_token(token, where)}"}


def read_token(path: Path) -> str:
    """The token in a file. Raises QiError."""
    try:
        text = path.expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise QiError(f"{path}: no token can be read ({error}); wanted a text file of one line") from error
    return clean_token(text, str(path))


def clean_token(text: str, where: str) -> str:
    """Without the line's end. Raises QiError if it cannot be a bearer token (RFC 6750, 2.1)."""
    token = text.strip()
    if not re.fullmatch(r"[A-Za-z0-9._~+/-]+=*", token):
        found = "characters that no bearer token has" if token else "nothing"
        raise QiError(f"{where}: holds {found}; wanted a token of letters, digits and -._~+/=")
    return token


class Caller:
    """Calls one server. Belongs to the event loop of its first call."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        backoff: float = 0.5,
        unfit: frozenset[int] = frozenset(),
        pace: Pace | None = None,
        needed: Callable[[Any], int] | None = None,
        obey: float = 0.0,
    ) -> None:
        """``backoff``: seconds before the second try, at most. ``unfit``: statuses that speak of what was asked alone,
        so that other calls may do better (a prompt too long for a model). ``pace``: every try waits for its turn.
        ``needed``: the tokens of an answer, for the pace. ``obey``: seconds that a call waits in all where the server
        says how long (Retry-After), without that counting as a failure. Raises QiError if the token isn't there."""
        self.endpoint = endpoint
        self._unfit, self._pace, self._needed, self._obey = unfit, pace, needed, obey
        self._headers = endpoint.headers()
        self._backoff = backoff
        self._session: ClientSession | None = None
        self._free: asyncio.Semaphore | None = None

    async def call(
        self,
        path: str,
        read: Callable[[bytes], T],
        body: Callable[[], tuple[str, bytes]] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> T:
        """GET, or POST where there is a ``body``: called in a thread for a name and the bytes; what ``read`` makes of
        the answer.

        ``read`` raises BadAnswer for one that won't do. Tries again after what may pass: no connection, no answer in
        time, status 5xx, a bad answer. Raises GaveUp after the last try, Unfit at once for an ``unfit`` status, and
        QiError at once where no call could do better.
        """
        session, free = self._ready()
        async with free:
            name, data = await asyncio.to_thread(body) if body else (path, None)
            turn, obeyed = 0, 0.0
            while True:
                reserved = await self._pace.turn() if self._pace else 0.0
                try:
                    answer = await self._once(session, path, read, data, headers)
                    if self._pace and self._needed:
                        self._pace.settle(reserved, self._needed(answer))
                    return answer
                except BadAnswer as error:
                    obeys = bool(error.after) and obeyed + error.after <= self._obey
                    if error.after and self._pace:
                        self._pace.hold(error.after if obeys else min(error.after, LONGEST_WAIT))
                    if obeys:
                        obeyed += error.after
                        wait = error.after + pause(name, 1, self._backoff)  # not all in the same moment
                    elif turn == self.endpoint.retries:
                        raise GaveUp(str(error)) from error
                    else:
                        turn += 1
                        wait = max(pause(name, turn, self._backoff), min(error.after, LONGEST_WAIT))
                await asyncio.sleep(wait)

    async def _once(
        self,
        session: ClientSession,
        path: str,
        read: Callable[[bytes], T],
        data: bytes | None,
        headers: Mapping[str, str] | None,
    ) -> T:
        import aiohttp

        url = self.endpoint.url.rstrip("/") + path
        sent = None if data is None else io.BytesIO(data)  # sent piece by piece: bytes at once would hold up the loop
        try:
            async with session.request(
                "GET" if data is None else "POST", url, data=sent, headers=headers, allow_redirects=False
            ) as response:
                answer = await _whole(response)
                if response.status in self._unfit:
                    raise Unfit(f"status {response.status}", _said(answer))
                _refuse(url, response.status, answer, response.headers.get("Retry-After", ""))
                return read(answer)
        except TimeoutError as error:
            raise BadAnswer("no answer in time") from error
        except aiohttp.InvalidURL as error:
            raise QiError(f"{url}: no address that can be called; wanted http://HOST:PORT") from error
        except (aiohttp.ClientError, OSError) as error:
            raise BadAnswer("no connection, or a broken one") from error

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    def _ready(self) -> tuple[ClientSession, asyncio.Semaphore]:
        """A session must be made inside the loop that it lives in."""
        if self._session is None or self._free is None:
            import aiohttp

            self._session = aiohttp.ClientSession(
                headers=self._headers,
                timeout=aiohttp.ClientTimeout(total=self.endpoint.timeout),
                connector=aiohttp.TCPConnector(limit=self.endpoint.in_flight),
            )
            self._free = asyncio.Semaphore(self.endpoint.in_flight)
        return self._session, self._free


def pause(name: str, turn: int, backoff: float) -> float:
    """Seconds before try number ``turn`` (1 is the second): doubled each time, and cut by up to a half so that calls
    which failed together don't return together. The cut follows from the name: nothing is drawn."""
    digest = hashlib.blake2b(f"{name}/{turn}".encode(), digest_size=4).digest()
    return min(LONGEST_WAIT, backoff * 2.0 ** min(turn - 1, 32)) * (0.5 + int.from_bytes(digest) / 2**33)


def seconds_of(retry_after: str) -> float:
    """Of the header Retry-After: seconds, or a date (RFC 9110, 10.2.3). 0 if it is neither."""
    text = retry_after.strip()
    if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", text):  # servers of models send fractions too
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time())
    except (ValueError, OverflowError):
        return 0.0


async def _whole(response: ClientResponse) -> bytes:
    content = bytearray()
    async for chunk in response.content.iter_chunked(2**16):
        content += chunk
        if len(content) > MOST:
            raise BadAnswer("an answer of too many bytes")
    return bytes(content)


def _refuse(url: str, status: int, content: bytes, retry_after: str) -> None:
    """Raises BadAnswer for a status that may pass, QiError for one that stays."""
    if status == 200:
        return
    if status >= 500 or status in AGAIN:
        raise BadAnswer(f"status {status}", seconds_of(retry_after))
    if status in (401, 403):
        raise QiError(
            f"{url}: the server answers {status}, {_said(content)}; give its token by token_env or token_file"
        )
    raise QiError(f"{url}: the server answers {status}, {_said(content)}; look at the url and at what listens there")


def _said(content: bytes) -> str:
    """Some of what it says, on one line, whatever it is."""
    text = " ".join(re.findall(r"[\x20-\x7e]+", content[:600].decode("utf-8", "replace")))
    return f"saying {text[:300]!r}" if text else "saying nothing"


async def together(work: Sequence[Coroutine[None, None, T]]) -> list[T]:
    """All at once. When one raises, the others are ended before its error goes on."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
