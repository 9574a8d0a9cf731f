"""Another cache's folder, read over HTTP by whatever serves it: only GET, and Range for stretches of a file."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import quote, urlsplit

from qi_core.cache.manifest import FILE, Listing, Shard
from qi_core.cache.shards import DATA, INDEX, Span
from qi_core.checksum import checksum
from qi_core.errors import QiError

DEADLINE = 30.0
"""Seconds without a byte after which a mirror counts as gone."""
PAUSE = 60.0
"""Seconds for which a mirror that failed is left alone."""
AGAIN = 600.0
"""Seconds after which a mirror is asked again what it has."""
SLOWEST = 1e6
"""Bytes a second that a mirror must give."""
MOST_MANIFEST = 256 << 20
GAP = 64 << 10
"""Bytes that are rather read too many than asked for apart."""
LARGEST_READ = 64 << 20


class Failed(Exception):
    """A mirror did not give what it was asked for."""


class Denied(Failed):
    """It wants another token."""


class Mirror:
    """One address. Connections are kept for those who ask next, from any thread."""

    def __init__(self, address: str, token: str, tell: Callable[[str], None]) -> None:
        self.address = address.rstrip("/")
        self.listing = Listing(f"{self.address}/{FILE}", tell)
        self._parts = urlsplit(self.address)
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._lock = threading.Lock()
        self._idle: list[http.client.HTTPConnection] = []
        self._tell = tell
        self._rests_until = self._polled = 0.0
        self._told = ""

    @property
    def rests(self) -> bool:
        """Whether it failed a short while ago."""
        return time.monotonic() < self._rests_until

    def open(self) -> None:
        """Read what it has. A mirror that can't be reached is told and rests. Raises QiError for a wrong token."""
        try:
            self._news()
        except Denied as error:
            raise QiError(str(error)) from error
        except Failed as error:
            self._rest(error)

    def poll(self) -> list[Shard]:
        """What it has by now that it hadn't."""
        try:
            return self._news()
        except Failed as error:
            self._rest(error)
            return []

    def _news(self) -> list[Shard]:
        self.asked()
        lines = self._get(FILE, most=MOST_MANIFEST).split(b"\n")
        try:
            return [shard for line in lines if (shard := self.listing.take(line)) is not None]
        except QiError as error:
            raise Failed(str(error)) from error

    def asked(self) -> None:
        """It is being asked just now."""
        self._polled = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether it should be asked again what it has."""
        return not self.rests and time.monotonic() > self._polled + AGAIN

    def index(self, shard: Shard, to: Path) -> None:
        """The rows of a shard, into a file. Raises Failed, or OSError."""
        try:
            data = self._get(f"{shard.name}{INDEX}", most=shard.index_bytes)
        except Failed as error:
            self._rest(error)
            raise
        if len(data) != shard.index_bytes:
            raise Failed(f"{self.address}/{shard.name}{INDEX}: {len(data)} bytes, {shard.index_bytes} wanted")
        beside = to.with_name(f".{to.name}.{threading.get_ident():x}")
        beside.write_bytes(data)
        beside.rename(to)

    def read(self, name: str, spans: Sequence[Span]) -> list[bool]:
        """As ``Reader.read``: which entries have the right checksum; none if the mirror fails, which is told."""
        good = {entry.id: not entry.length and entry.sum == checksum(b"") for entry, _ in spans}
        try:
            for start, end, own in _stretches(spans):
                data = memoryview(self._get(f"{name}{DATA}", most=end - start, start=start))
                for entry, view in own:
                    view[:] = data[entry.offset - start : entry.offset - start + entry.length]
                    good[entry.id] = checksum(view) == entry.sum
        except Failed as error:
            self._rest(error)
        return [good[entry.id] for entry, _ in spans]

    def _rest(self, error: Failed) -> None:
        self._rests_until = time.monotonic() + PAUSE
        if str(error) != self._told:  # the same trouble once
            self._told = str(error)
            self._tell(f"cache: {error}; it is left alone for {PAUSE:.0f} s and tried again then")

    def _get(self, file: str, *, most: int, start: int | None = None) -> bytes:
        """A file, or ``most`` bytes of it from ``start``. Raises Failed."""
        while True:
            kept = self._kept()
            connection = kept or self._connect()
            try:
                data = self._answer(connection, file, most, start)
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                if kept is None:
                    raise Failed(f"{self.address}/{file}: {type(error).__name__}: {error}") from error
                continue  # a connection that was kept may have been closed meanwhile
            except BaseException:
                connection.close()  # what wasn't read would be taken for the next answer
                raise
            with self._lock:
                self._idle.append(connection)
            return data

    def _kept(self) -> http.client.HTTPConnection | None:
        with self._lock:
            return self._idle.pop() if self._idle else None

    def _connect(self) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if self._parts.scheme == "https" else http.client.HTTPConnection
        return kind(self._parts.hostname or "", self._parts.port, timeout=DEADLINE)

    def close(self) -> None:
        """Hang up."""
        while (connection := self._kept()) is not None:
            connection.close()

    def _answer(self, connection: http.client.HTTPConnection, file: str, most: int, start: int | None) -> bytes:
        headers = dict(self._headers)
        if start is not None:
            headers["Range"] = f"bytes={start}-{start + most - 1}"
        connection.request("GET", f"{self._parts.path}/{quote(file)}", headers=headers)
        with connection.getresponse() as answer:
            return self._body(answer, file, most, start)

    def _body(self, answer: http.client.HTTPResponse, file: str, most: int, start: int | None) -> bytes:
        where = f"{self.address}/{file}"
        if answer.status in (401, 403):
            raise Denied(f"{where}: status {answer.status}; the right token was wanted; set data.cache.token_file")
        if start is not None:
            told = answer.getheader("Content-Range", "")
            if answer.status != 206 or not told.startswith(f"bytes {start}-{start + most - 1}/"):
                raise Failed(
                    f"{where}: status {answer.status} for a stretch of the file, 206 wanted; it knows no Range"
                )
        elif answer.status != 200:
            raise Failed(f"{where}: status {answer.status}, 200 wanted")
        data = _patient(answer, most + 1)
        if len(data) > most or (start is not None and len(data) != most):
            raise Failed(f"{where}: {len(data)} bytes, {most} wanted")
        return data


def _patient(answer: http.client.HTTPResponse, most: int) -> bytes:
    """At most so many bytes of an answer. Raises TimeoutError where they come by drops."""
    deadline = time.monotonic() + DEADLINE + most / SLOWEST
    data = bytearray()
    while len(data) < most and (piece := answer.read1(min(most - len(data), 1 << 20))):
        data += piece
        if time.monotonic() > deadline:
            raise TimeoutError(f"{len(data)} bytes of {most} in {DEADLINE + most / SLOWEST:.0f} s")
    return bytes(data)


def _stretches(spans: Sequence[Span]) -> list[tuple[int, int, list[Span]]]:
    """(start, end, entries) of what is read at once: neighbours together."""
    found: list[tuple[int, int, list[Span]]] = []
    for span in sorted((span for span in spans if span[0].length), key=lambda span: span[0].offset):
        start, end = span[0].offset, span[0].offset + span[0].length
        if found and start - found[-1][1] <= GAP and end - found[-1][0] <= LARGEST_READ:
            found[-1] = (found[-1][0], max(end, found[-1][1]), [*found[-1][2], span])
        else:
            found.append((start, end, [span]))
    return found
