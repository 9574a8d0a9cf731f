"""A producer's side: orders come in over HTTP, portions go out, and shards of its cache.

Every answer follows from the order alone, so nothing is leased and nothing is lost with a connection: who asks again
gets the same, and who asks twice at once waits for the same work.
"""

from __future__ import annotations

import asyncio
import hmac
import os
import re
import socket
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from attrs import field, frozen

from qi_core.errors import QiError
from qi_core.plane import wire
from qi_core.plane.body import Body
from qi_core.plane.orders import Busy, Orders, Specs

if TYPE_CHECKING:
    from aiohttp import web
    from aiohttp.typedefs import Handler
    from msgspec import Struct


SLOWEST_BODY = 60.0
"""Seconds in which a message must have been sent whole."""
SLOWEST_SEND = 60.0
"""Seconds that a portion may take to be sent, and one more for each MiB: who reads nothing holds memory."""
TLS_CHUNK = 1 << 18
"""Bytes that are encrypted at once."""
FAREWELL = 5.0
"""Seconds that requests have to end in when the server is asked to stop."""
_SHARD = re.compile(r"[0-9A-Za-z_-][0-9A-Za-z._-]{0,199}")


def application(
    orders: Orders, specs: Specs, *, token: str = "", shards: Path | None = None, guarded: bool = False
) -> web.Application:
    """All addresses. ``token``: "" lets everybody in who calls by a loopback name or a unix socket, and with
    ``guarded`` (by certificates) everybody who could connect. ``shards``: the folder of immutable files to give."""
    from aiohttp import web

    def reply(message: Struct, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
        return web.Response(body=wire.encode(message), content_type="application/json", status=status, headers=headers)

    @web.middleware
    async def told(request: web.Request, handler: Handler) -> web.StreamResponse:
        """Whatever goes wrong, with its status and one sentence."""
        try:
            _let_in(request, token, guarded)
            return await handler(request)
        except web.HTTPException as error:
            return reply(wire.Problem(error=error.text or error.reason), error.status)
        except wire.Unreadable as error:
            return reply(wire.Problem(error=str(error)), 400)
        except Busy as error:
            orders.counts["busy"] += 1
            return reply(wire.Problem(error=str(error)), 503, {"Retry-After": "1"})
        except QiError as error:
            return reply(wire.Problem(error=str(error)), 422)
        except (ConnectionError, asyncio.CancelledError):
            raise  # nobody is left to be told
        except Exception as error:
            traceback.print_exc()
            return reply(wire.Problem(error=f"{type(error).__name__}: {error}"), 500)

    async def portion(request: web.Request) -> web.StreamResponse:
        asked = await _read(request)
        order, name = wire.order_of(asked), wire.name_of(asked)
        definition = specs.get(order.spec)
        if definition is None:
            known = ", ".join(specs.names()) or "none yet"
            problem = wire.Problem(error=f"spec {order.spec} is not known here (known: {known})", specs=specs.names())
            return reply(problem, 409)
        async with orders.answer(name, order, definition) as body:
            return await _send(request, body, {wire.MADE_BY: order.spec, wire.ANSWERS: name})

    async def spec(request: web.Request) -> web.Response:
        message = wire.decode(await _read(request), wire.Spec)
        name = await asyncio.to_thread(specs.accept, message.definition)
        if name != message.spec:
            raise QiError(
                f"version skew: the trainer calls its spec {message.spec}, this producer would call it {name}; "
                "have the same version of qi, and the same files under the names of the recipe, on both sides, and "
                "start anew a producer that ran before they changed"
            )
        specs.put(name, message.definition)
        orders.makes.ready(name, message.definition.encode())
        return reply(wire.Health(specs=specs.names()))

    async def health(request: web.Request) -> web.Response:
        return reply(wire.Health(specs=specs.names()))

    async def stats(request: web.Request) -> web.Response:
        counts: dict[str, Any] = dict(orders.counts)
        makes = orders.makes
        return reply(wire.Stats(**counts, held=orders.in_memory(), workers=makes.alive(), deaths=makes.deaths()))

    async def shard(request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        if shards is None or not _SHARD.fullmatch(name) or not (shards / name).is_file():
            raise web.HTTPNotFound(text=f"no shard is called {name!r} here")
        return web.FileResponse(
            shards / name, chunk_size=1 << 20, headers={"Cache-Control": "public, max-age=31536000, immutable"}
        )

    app = web.Application(client_max_size=wire.LARGEST, middlewares=[told])
    app.add_routes(
        [
            web.post(wire.PORTION, portion),
            web.post(wire.SPEC, spec),
            web.get(wire.HEALTH, health),
            web.get(wire.STATS, stats),
            web.get(wire.SHARD + "/{name}", shard),
        ]
    )
    return app


async def _read(request: web.Request) -> bytes:
    from aiohttp import web

    try:
        async with asyncio.timeout(SLOWEST_BODY):
            return await request.read()
    except TimeoutError as error:
        raise web.HTTPRequestTimeout(text=f"wanted the whole request within {SLOWEST_BODY:g} s") from error


async def _send(request: web.Request, body: Body, headers: dict[str, str]) -> web.StreamResponse:
    """From the body's own pages into the socket. Not by sendfile: from such a file it costs a third more, page by page,
    and it lends pages to the network, where they would change when the file is written again."""
    from aiohttp import web

    response = web.StreamResponse(headers={wire.SUM: body.sum, "Content-Type": wire.BODY, **headers})
    response.content_length = body.size
    await response.prepare(request)
    transport = request.transport
    if transport is None:
        raise ConnectionResetError("the connection is gone")
    try:
        async with asyncio.timeout(SLOWEST_SEND + body.size / 2**20):
            if transport.get_extra_info("sslcontext") is None:
                await _send_plain(transport, body)
            else:
                for start in range(0, body.size, TLS_CHUNK):
                    await response.write(body.view[start : start + TLS_CHUNK])
            await response.write_eof()
    except BaseException:
        transport.abort()  # nothing else may follow half a body
        raise
    return response


async def _send_plain(transport: asyncio.Transport, body: Body) -> None:
    """Past the transport, which would copy what the socket has no room for at once."""
    while transport.get_write_buffer_size():  # the headers first
        await asyncio.sleep(0.001)
    with socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno())) as direct:
        direct.setblocking(False)
        await asyncio.get_running_loop().sock_sendall(direct, body.view)


def _let_in(request: web.Request, token: str, guarded: bool) -> None:
    """Raises 401 without the right token; without any, 403 for who calls by another than a loopback name: a page in a
    browser on this machine could (DNS rebinding)."""
    from aiohttp import web

    if token:
        given = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
        if request.path != wire.HEALTH and not hmac.compare_digest(given, f"Bearer {token}".encode()):
            raise web.HTTPUnauthorized(text="wanted the header Authorization: Bearer TOKEN with this producer's token")
    elif not guarded and not wire.is_loopback(request.url.host or ""):
        raise web.HTTPForbidden(text="this producer is called by a loopback name alone; start it with a token")


@frozen(kw_only=True)
class Door:
    """Where a producer listens, and who may come in."""

    socket: Path | None = None
    """A unix socket, which nobody but this user may open."""
    host: str = "127.0.0.1"
    port: int | None = None
    """None: not on the network; 0: a free one."""
    token: str = field(default="", repr=False)
    tls: wire.Tls | None = None

    def __attrs_post_init__(self) -> None:
        if self.socket is None and self.port is None:
            raise QiError("a producer must listen somewhere: give a socket or a port")
        if self.port is not None and not self.token and self.tls is None and not wire.is_loopback(self.host):
            raise QiError(f"{self.host}: others could call without a token; give one, or certificates, or 127.0.0.1")


async def serve(
    orders: Orders,
    specs: Specs,
    door: Door,
    *,
    stop: asyncio.Event,
    shards: Path | None = None,
    ready: Callable[[list[str]], None] = lambda addresses: None,
) -> None:
    """Until ``stop``. ``ready`` is told the addresses. Raises QiError where it can't listen."""
    from aiohttp import web

    app = application(orders, specs, token=door.token, shards=shards, guarded=door.tls is not None)
    runner = web.AppRunner(
        app, access_log=None, handler_cancellation=True, auto_decompress=False, shutdown_timeout=FAREWELL
    )
    found: list[str] = []
    own: tuple[int, int] | None = None
    try:
        await runner.setup()
        await asyncio.sleep(0)
        if stop.is_set():  # whoever started this is gone: another one may be listening there for its next run
            return
        if door.socket is not None:
            listening, own = _private(door.socket)
            await _listen(web.SockSite(runner, listening), str(door.socket))
            found.append(f"unix:{door.socket.absolute()}")
        if door.port is not None:
            tls = door.tls.server() if door.tls else None
            await _listen(web.TCPSite(runner, door.host, door.port, ssl_context=tls), f"{door.host}:{door.port}")
            bound = next(each[1] for each in runner.addresses if isinstance(each, tuple))
            host = f"[{door.host}]" if ":" in door.host else door.host
            found.append(f"{'https' if tls else 'http'}://{host}:{bound}")
        ready(found)
        await stop.wait()
    finally:
        if door.socket is not None and own is not None and _identity(door.socket) == own:
            door.socket.unlink(missing_ok=True)
        await runner.cleanup()
        await orders.close()


async def _listen(site: web.BaseSite, where: str) -> None:
    try:
        await site.start()
    except (OSError, OverflowError) as error:
        _cannot_listen(where, error)


def _private(path: Path) -> tuple[Any, tuple[int, int] | None]:
    """A listening unix socket that nobody but this user may open, and its file's identity. The path of one that a
    killed producer left is taken over."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.unlink(missing_ok=True)
        before = os.umask(0o177)
        try:
            made.bind(str(beside))
        finally:
            os.umask(before)
        made.listen(128)
        own = _identity(beside)
        beside.rename(path)
    except OSError as error:
        made.close()
        _cannot_listen(str(path), error)
    return made, own


def _identity(path: Path) -> tuple[int, int] | None:
    """Of what is there, if anything."""
    try:
        told = path.stat()
    except OSError:
        return None
    return told.st_dev, told.st_ino


def _cannot_listen(where: str, error: Exception) -> NoReturn:
    why = getattr(error, "strerror", None) or error
    raise QiError(f"{where}: can't listen there ({why}); choose another address") from error


def until_stopped() -> asyncio.Event:
    """Set by SIGINT and SIGTERM. Called in a running loop."""
    import signal

    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


def told(addresses: list[str]) -> None:
    """The ``ready`` of a program whose parent reads where it listens: one line."""
    print(*addresses, file=sys.stdout, flush=True)
