"""One producer as its client sees it: a persistent connection or several, and when it may be asked again."""

from __future__ import annotations

import http.client
import select
import socket
import threading
import time
from collections import Counter
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from attrs import field, frozen

from qi_core.checksum import Running, hex_of, pieces
from qi_core.errors import QiError
from qi_core.packing import Damaged, Limits, read
from qi_core.plane import wire
from qi_core.plane.ring import Ring
from qi_core.portions import Order, Portion

if TYPE_CHECKING:
    from ssl import SSLContext

FIRST_REST, LONGEST_REST = 0.2, 10.0
"""Seconds that a producer is left alone after its first failure in a row, and after many."""
CONNECT = 5.0
"""Seconds that connecting may take."""
STALL = 60.0
"""Seconds without a byte of a portion that has begun."""


class Gone(Exception):
    """It can't be reached, or broke off."""


class Wrong(Exception):
    """What came is not what was sent or asked for: short, another checksum, another order."""


class Busy(Exception):
    """It asks to be left alone for some seconds."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"busy for {seconds:g} s")
        self.seconds = seconds


class Unknown(Exception):
    """It does not know the spec of the order."""

    def __init__(self, problem: wire.Problem) -> None:
        super().__init__(problem.error)
        self.specs = problem.specs


class Refused(Exception):
    """The order can't be carried out, or not there."""


@frozen(kw_only=True)
class Answer:
    """A portion, and what it took."""

    portion: Portion
    bytes: int
    seconds: float


@frozen(kw_only=True)
class Call:
    """How producers are called."""

    token: str = field(default="", repr=False)
    tls: SSLContext | None = None
    limits: Limits = field(factory=Limits)
    patience: float = 900.0
    """Seconds in which an answer must begin: encoders may have to be loaded first."""


class Producer:
    """Any thread may ask."""

    def __init__(self, address: wire.Address, call: Call) -> None:
        self.address, self._call = address, call
        self.asked = 0
        """Orders that it has now."""
        self.rests_until = 0.0
        """By time.monotonic(): not asked before."""
        self.failures = 0
        """In a row."""
        self.last = ""
        """What went wrong last."""
        self.counts = Counter[str]()
        """Portions, bytes, and what went wrong, by reason."""
        self.pace = 0.0
        """Seconds that a portion takes it, the last ones counting most."""
        self.taught: dict[str, float] = {}
        """When it was given a spec, by time.monotonic()."""
        self.teaching = threading.Lock()
        self._idle: list[http.client.HTTPConnection] = []
        self._lock = threading.Lock()

    def connect(self) -> http.client.HTTPConnection:
        """One that is open already, or a new one. Raises Gone."""
        while True:
            with self._lock:
                kept = self._idle.pop() if self._idle else None
            if kept is None:
                break
            if not _ended(kept):
                return kept
            kept.close()
        made = self._connection()
        self.counts["connections"] += 1
        try:
            made.connect()
        except OSError as error:
            raise Gone(f"can't be reached ({_why(error)})") from error
        return made

    def _connection(self) -> http.client.HTTPConnection:
        if self.address.scheme == "unix":
            return _Unix(self.address.path, timeout=CONNECT)
        if self.address.scheme == "https":
            return http.client.HTTPSConnection(
                self.address.host, self.address.port, timeout=CONNECT, context=self._call.tls
            )
        return http.client.HTTPConnection(self.address.host, self.address.port, timeout=CONNECT)

    def pull(self, connection: http.client.HTTPConnection, order: Order, body: bytes, ring: Ring) -> Answer:
        """The portion of an order, ``body`` being the order as it is sent. The connection is used up or kept.

        Raises Gone, Wrong, Busy, Unknown, Refused, and QiError where we are not let in.
        """
        began = time.monotonic()
        try:
            response = self._response(connection, "POST", wire.PORTION, body)
            if response.status != 200:
                self._refuse(connection, response)
            size = self._announced(response, order, wire.name_of(body))
            buffer = ring.lend(size)
            connection.sock.settimeout(STALL)
            total = _fill(response, buffer)
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise Gone(f"broke off ({_why(error)})") from error
        except (Gone, Wrong):
            connection.close()
            raise
        self._keep(connection, response)
        if hex_of(total) != response.headers[wire.SUM]:
            raise Wrong("a portion with another checksum than was sent with it")
        try:
            portion = read(buffer, self._call.limits)
        except Damaged as error:
            raise Wrong(f"a portion that is none ({error})") from error
        return Answer(portion=portion, bytes=size, seconds=time.monotonic() - began)

    def teach(self, spec: str, definition: str, asked: float) -> None:
        """Give it a spec, unless another thread has since the time ``asked``, at which it was not known. Raises Gone,
        Busy, and QiError where it can't work by it."""
        with self.teaching:
            if self.taught.get(spec, 0.0) < asked:
                try:
                    self._teach(spec, definition)
                except Refused as error:
                    raise QiError(str(error)) from error
                self.taught[spec] = time.monotonic()

    def _teach(self, spec: str, definition: str) -> None:
        connection = self.connect()
        try:
            message = wire.encode(wire.Spec(spec=spec, definition=definition))
            response = self._response(connection, "POST", wire.SPEC, message)
            if response.status != 200:
                self._refuse(connection, response)
            response.read(wire.LARGEST)
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise Gone(f"broke off ({_why(error)})") from error
        self._keep(connection, response)

    def rest(self, why: str, seconds: float | None = None) -> None:
        """Leave it alone for a while; without ``seconds``, longer with each failure in a row."""
        with self._lock:
            self.last = why
            if seconds is None:
                seconds = min(FIRST_REST * 2.0 ** min(self.failures, 16), LONGEST_REST)
                self.failures += 1
            self.rests_until = time.monotonic() + seconds

    def took(self, seconds: float) -> None:
        """A portion, or at least so long before another was faster."""
        self.pace = seconds if not self.pace else 0.8 * self.pace + 0.2 * seconds

    def works(self) -> None:
        """It has just answered."""
        self.failures, self.rests_until = 0, 0.0

    def close(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for each in idle:
            each.close()

    def _response(
        self, connection: http.client.HTTPConnection, method: str, path: str, body: bytes
    ) -> http.client.HTTPResponse:
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        if self._call.token:
            headers["Authorization"] = f"Bearer {self._call.token}"
        connection.sock.settimeout(self._call.patience)
        connection.request(method, path, body, headers)
        return connection.getresponse()

    def _announced(self, response: http.client.HTTPResponse, order: Order, name: str) -> int:
        """Bytes of the portion. Raises Wrong where it is another's, or larger than is taken."""
        size = response.length
        if size is None or not 8 <= size <= self._call.limits.body:
            raise Wrong(f"a portion of {size} bytes; {self._call.limits.body} are taken")
        if (response.headers[wire.MADE_BY], response.headers[wire.ANSWERS]) != (order.spec, name):
            raise Wrong("the answer to another order")
        return size

    def _refuse(self, connection: http.client.HTTPConnection, response: http.client.HTTPResponse) -> None:
        """Raise what an answer without a portion stands for."""
        content = response.read(wire.LARGEST)
        self._keep(connection, response)
        try:
            problem = wire.decode(content, wire.Problem)
        except wire.Unreadable:
            problem = wire.Problem(error=f"status {response.status}, {response.reason}")
        where = f"producer {self.address.text}"
        match response.status:
            case 401 | 403:
                raise QiError(f"{where} does not let us in ({problem.error}); give its token (data.engine.token_file)")
            case 409:
                raise Unknown(problem)
            case 422:
                raise Refused(f"{where}: {problem.error}")
            case 503 | 429:
                raise Busy(_seconds(response.headers["Retry-After"]))
            case 400 | 404 | 405 | 410 | 413:
                raise QiError(f"{where}: {problem.error}; is it a producer of this version of qi?")
            case _:
                raise Gone(f"failed ({problem.error})")

    def _keep(self, connection: http.client.HTTPConnection, response: http.client.HTTPResponse) -> None:
        if response.will_close or not response.isclosed():
            connection.close()
            return
        with self._lock:
            self._idle.append(connection)


class _Unix(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        try:
            self.sock.connect(self._path)
        except OSError:
            self.close()
            raise


def _ended(connection: http.client.HTTPConnection) -> bool:
    """Whether the other side has closed an idle connection: then there is something to read."""
    poll = select.poll()
    poll.register(connection.sock, select.POLLIN)
    return bool(poll.poll(0))


def hang_up(connection: http.client.HTTPConnection) -> None:
    """Wake whoever waits for it in another thread."""
    with suppress(OSError, AttributeError):
        socket.socket.shutdown(connection.sock, socket.SHUT_RDWR)  # TLS's own would go on in the clear


def _fill(response: http.client.HTTPResponse, buffer: memoryview) -> int:
    """Straight from the socket into the buffer; the checksum of it. Raises Gone where the other side ends early."""
    total, at = Running(), 0
    for piece in pieces(buffer):
        while piece:
            count = response.readinto(piece)
            if not count:
                raise Gone(f"broke off after {at} of {len(buffer)} bytes")
            total.add(piece[:count])
            piece, at = piece[count:], at + count
    return total.value


def _seconds(retry_after: str | None) -> float:
    """Of a Retry-After: a number or a date."""
    with suppress(ValueError, TypeError):
        return min(max(0.0, float(retry_after or 1)), LONGEST_REST)  # in this order NaN is 0
    with suppress(ValueError, TypeError):
        return min(max(parsedate_to_datetime(retry_after or "").timestamp() - time.time(), 0.0), LONGEST_REST)
    return 1.0


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)[:100] or type(error).__name__
