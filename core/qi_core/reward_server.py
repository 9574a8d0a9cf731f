"""Rewards behind HTTP: judged once a request, however often it is sent. The messages stand in ``reward_wire``."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import signal
import sys
import traceback
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NoReturn

from attrs import frozen

from qi_core.errors import QiError
from qi_core.reward import Candidate, Reward, Scores
from qi_core.scoring import checked

if TYPE_CHECKING:
    from aiohttp import web
    from aiohttp.typedefs import Handler
    from msgspec import Struct

    from qi_core.reward_wire import Answer, Limits, Request

REMEMBERED = 512
"""Answers kept for those who ask again; each is some bytes a candidate."""
AT_ONCE = 16
"""Requests whose pictures are in memory, also for who has hung up; the others wait without being read, or are told to
come again."""
SLOWEST_BODY = 120.0
"""Seconds in which a request must have been sent whole."""
FAREWELL = 30.0
"""Seconds that requests have to end in when the server is asked to stop."""


@frozen(kw_only=True)
class Served:
    """A reward, ready to judge."""

    reward: Reward
    groupwise: bool


class Unknown(Exception):
    """No reward is served by that name."""


class Busy(Exception):
    """As much is being judged as may be at once, for callers that hung up too."""


class Reused(Exception):
    """A request's id stood for something else before."""


class Judge:
    """Scores a request once: who sends it again, while it is judged or after, gets the same answer."""

    def __init__(self, rewards: Mapping[str, Served]) -> None:
        self.rewards = dict(rewards)
        self._known: OrderedDict[str, tuple[bytes, asyncio.Task[Answer]]] = OrderedDict()

    async def answer(self, request: Request, digest: bytes, candidates: Callable[[], list[Candidate]]) -> Answer:
        """``digest`` tells whether a known id asks for the same. ``candidates`` decodes the pictures, in a thread.

        Raises Unknown, Reused, Busy, and what the reward or the decoder raises; then nothing is remembered.
        """
        if request.reward not in self.rewards:
            known = ", ".join(self.rewards)
            raise Unknown(f"no reward is called {request.reward!r} here (known: {known})")
        served = self.rewards[request.reward]
        if request.id in self._known:
            seen, task = self._known[request.id]
            if seen != digest:
                raise Reused(f"request {request.id!r} was something else before")
            self._known.move_to_end(request.id)
        else:
            if sum(not task.done() for _, task in self._known.values()) >= AT_ONCE:
                raise Busy(f"{AT_ONCE} requests are being judged already; wanted later")
            task = asyncio.ensure_future(self._score(request, served, candidates))
            self._known[request.id] = (digest, task)
            task.add_done_callback(lambda done: self._done(request.id, done))
        return await asyncio.shield(task)  # who asks may hang up; the work is still wanted when they ask again

    async def _score(self, request: Request, served: Served, candidates: Callable[[], list[Candidate]]) -> Answer:
        from qi_core import reward_wire

        decoded = await asyncio.to_thread(candidates)
        scores = await served.reward.score(decoded) if decoded else Scores(values=())
        scores = checked(request.reward, scores, len(decoded))
        return reward_wire.answer(request.id, scores)

    def _done(self, name: str, task: asyncio.Task[Answer]) -> None:
        if task.cancelled() or task.exception() is not None:
            self._known.pop(name, None)
        finished = [each for each, (_, other) in self._known.items() if other.done()]
        for each in finished[: max(0, len(finished) - REMEMBERED)]:
            del self._known[each]

    async def close(self) -> None:
        """End what is still going on, and every reward."""
        tasks = [task for _, task in self._known.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        rewards = [served.reward for served in self.rewards.values()]
        for ended in await asyncio.gather(*(reward.close() for reward in rewards), return_exceptions=True):
            if isinstance(ended, BaseException):
                raise ended


def application(judge: Judge, *, token: str = "", limits: Limits | None = None) -> web.Application:
    """The three addresses. ``token``: "" lets everybody in who calls by a loopback name."""
    from aiohttp import web

    from qi_core import reward_wire as wire

    taken = limits or wire.Limits()
    free = asyncio.Semaphore(AT_ONCE)
    offers = wire.Offers(
        schema=wire.SCHEMA,
        rewards=tuple(wire.Offered(name=name, groupwise=each.groupwise) for name, each in judge.rewards.items()),
        limits=taken,
    )

    def reply(message: Struct, request: web.Request, status: int = 200) -> web.Response:
        kind = wire.JSON if wire.JSON in (request.content_type, request.headers.get("Accept")) else wire.MSGPACK
        return web.Response(body=wire.encode(message, kind), content_type=kind, status=status)

    @web.middleware
    async def told(request: web.Request, handler: Handler) -> web.StreamResponse:
        """Whatever goes wrong, with its status and one sentence."""
        try:
            _let_in(request, token)
            return await handler(request)
        except web.HTTPException as error:
            return reply(wire.Problem(error=error.text or error.reason), request, error.status)
        except QiError as error:
            print(error, file=sys.stderr, flush=True)
            return reply(wire.Problem(error=str(error)), request, 422)
        except Exception as error:
            traceback.print_exc()
            return reply(wire.Problem(error=f"{type(error).__name__}: {error}"), request, 500)

    async def health(request: web.Request) -> web.Response:
        return reply(wire.Health(), request)

    async def rewards(request: web.Request) -> web.Response:
        return reply(offers, request)

    async def score(request: web.Request) -> web.Response:
        if request.content_type not in (wire.MSGPACK, wire.JSON):
            raise web.HTTPUnsupportedMediaType(text=f"wanted {wire.MSGPACK} or {wire.JSON}")
        if (request.content_length or 0) > taken.body:
            raise web.HTTPRequestEntityTooLarge(taken.body, text=f"at most {taken.body} bytes are taken")
        async with free:
            try:
                async with asyncio.timeout(SLOWEST_BODY):
                    body = await request.read()
            except TimeoutError as error:
                raise web.HTTPRequestTimeout(text=f"wanted the whole request within {SLOWEST_BODY:g} s") from error
            return reply(await _judged(judge, body, request.content_type, taken), request)

    app = web.Application(client_max_size=taken.body, middlewares=[told])
    app.add_routes(
        [web.get("/v1/health", health), web.get("/v1/rewards", rewards), web.post("/v1/score", score)],
    )
    return app


async def _judged(judge: Judge, body: bytes, content_type: str, limits: Limits) -> Answer:
    from aiohttp import web

    from qi_core import reward_wire as wire

    def read() -> tuple[wire.Request, bytes]:
        return wire.decode(body, content_type, wire.Request), hashlib.sha256(body).digest()

    try:
        request, digest = await asyncio.to_thread(read)
        return await judge.answer(request, digest, lambda: wire.candidates_of(request, limits))
    except wire.Unreadable as error:
        raise web.HTTPBadRequest(text=str(error)) from error
    except Unknown as error:
        raise web.HTTPNotFound(text=str(error)) from error
    except Reused as error:
        raise web.HTTPConflict(text=str(error)) from error
    except Busy as error:
        raise web.HTTPServiceUnavailable(text=str(error)) from error


def _let_in(request: web.Request, token: str) -> None:
    """Raises 401 without the right token; without any, 403 for who calls by another than a loopback name: a page in a
    browser on this machine could (DNS rebinding)."""
    from aiohttp import web

    if not token:
        if not is_loopback(request.url.host or ""):
            raise web.HTTPForbidden(text="this server is called by a loopback name alone; serve with a token")
        return
    given = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
    if request.path != "/v1/health" and not hmac.compare_digest(given, f"Bearer {token}".encode()):
        raise web.HTTPUnauthorized(text="wanted the header Authorization: Bearer TOKEN with this server's token")


def is_loopback(host: str) -> bool:
    """Whether only this machine can call by this name."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


async def serve(
    rewards: Mapping[str, Served],
    *,
    host: str,
    port: int,
    token: str = "",
    limits: Limits | None = None,
    ready: Callable[[str], None] = lambda url: None,
) -> None:
    """Until SIGINT or SIGTERM. ``ready`` is told the address; port 0 takes a free one.

    Raises QiError where it can't listen, or others than this machine could call without a token.
    """
    from aiohttp import web

    if not token and not is_loopback(host):
        raise QiError(f"--host {host}: others could call without a token; give --token-file, or serve on 127.0.0.1")
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    judge = Judge(rewards)
    # Bodies stay as they were sent: a small compressed one could unpack to any size. Who hangs up frees the place.
    runner = web.AppRunner(
        application(judge, token=token, limits=limits),
        access_log=None,
        handler_cancellation=True,
        auto_decompress=False,
        shutdown_timeout=FAREWELL,
    )
    try:
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port).start()
        except (OSError, OverflowError) as error:
            _cannot_listen(host, port, error)
        bound = runner.addresses[0][1]
        ready(f"http://{f'[{host}]' if ':' in host else host}:{bound}")
        await stop.wait()
    finally:
        await runner.cleanup()
        await judge.close()


def _cannot_listen(host: str, port: int, error: Exception) -> NoReturn:
    why = getattr(error, "strerror", None) or error
    raise QiError(f"{host}:{port}: can't listen there ({why}); choose another --host or --port") from error
