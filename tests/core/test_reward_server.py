"""What a reward server takes, from whom, and that it judges once."""

from __future__ import annotations

import asyncio
import base64
import json
import pickle
from collections.abc import Awaitable, Callable, Sequence
from io import BytesIO

import msgspec
import pytest
from aiohttp import ClientResponse, ClientSession, ClientTimeout
from aiohttp.test_utils import TestServer
from attrs import define, field
from PIL import Image

from qi_core import Candidate, QiError, Scores, reward_server
from qi_core import reward_wire as wire
from qi_core.reward_server import Judge, Served, application, is_loopback, serve
from qi_core.testing.rewards import some_candidates

LIMITS = wire.Limits(body=20_000, pixels=600, total_pixels=1100, candidates=3)
HEADERS = {"Content-Type": wire.MSGPACK}


@define
class Counting:
    """Judges by the first pixel, when it is let go; says how often it was asked."""

    go: asyncio.Event = field(factory=asyncio.Event)
    calls: int = 0
    fails: list[Exception] = field(factory=list)

    async def score(self, candidates: Sequence[Candidate]) -> Scores:
        self.calls += 1
        await self.go.wait()
        if self.fails:
            raise self.fails.pop()
        return Scores(values=tuple(float(candidate.image[0, 0, 0]) for candidate in candidates))

    async def close(self) -> None: ...


Act = Callable[[ClientSession, Counting], Awaitable[None]]


def with_server(act: Act, *, token: str = "", limits: wire.Limits = LIMITS) -> None:
    """``act`` calls a server on a real socket; its reward is let go unless ``act`` holds it."""

    async def main() -> None:
        reward = Counting()
        reward.go.set()
        judge = Judge({"first": Served(reward=reward, groupwise=False)})
        server = TestServer(application(judge, token=token, limits=limits), host="127.0.0.1")
        await server.start_server(auto_decompress=False)
        try:
            async with ClientSession(server.make_url("/"), timeout=ClientTimeout(total=20)) as session:
                await act(session, reward)
        finally:
            await server.close()
            await judge.close()

    asyncio.run(main())


def asked(count: int = 2, reward: str = "first") -> wire.Request:
    return wire.request(reward, some_candidates(count), "raw")


def wanted(count: int = 2) -> list[float]:
    return [float(candidate.image[0, 0, 0]) for candidate in some_candidates(count)]


def post(session: ClientSession, message: wire.Request) -> Awaitable[ClientResponse]:
    return session.post("/v1/score", data=wire.encode(message, wire.MSGPACK), headers=HEADERS)


async def hangs_up(session: ClientSession, reward: Counting, message: wire.Request, calls: int) -> None:
    """Once it is judged, which makes so many calls."""
    asking = asyncio.ensure_future(post(session, message))
    async with asyncio.timeout(20):
        while reward.calls < calls:
            await asyncio.sleep(0.005)
    asking.cancel()
    await asyncio.wait([asking])


async def problem(response: ClientResponse) -> str:
    kind = wire.JSON if response.content_type == wire.JSON else wire.MSGPACK
    return wire.decode(await response.read(), kind, wire.Problem).error


def test_json_with_png_gives_what_msgpack_with_raw_pixels_gives() -> None:
    message = json.dumps(
        {
            "schema": 1,
            "id": "mine",
            "reward": "first",
            "candidates": [
                {
                    "key": candidate.key,
                    "group": candidate.group,
                    "prompt": candidate.prompt,
                    "image": {
                        "encoding": "png",
                        "height": 16,
                        "width": 32,
                        "data": base64.b64encode(wire.png(candidate.image)).decode(),
                    },
                }
                for candidate in some_candidates(2)
            ],
        }
    )

    async def act(session: ClientSession, reward: Counting) -> None:
        async with session.post("/v1/score", data=message, headers={"Content-Type": wire.JSON}) as response:
            assert await response.json() == {
                "id": "mine", "schema": 1, "values": wanted(), "parts": {}, "failures": {}
            }  # fmt: skip
        async with await post(session, asked()) as response:
            assert list(wire.decode(await response.read(), wire.MSGPACK, wire.Answer).values) == wanted()

    with_server(act)


def test_it_says_what_it_has_and_takes() -> None:
    async def act(session: ClientSession, reward: Counting) -> None:
        async with session.get("/v1/health", headers={"Accept": wire.JSON}) as response:
            assert await response.json() == {"status": "ok", "schema": 1}
        async with session.get("/v1/rewards", headers={"Accept": wire.JSON}) as response:
            assert await response.json() == {
                "schema": 1,
                "rewards": [{"name": "first", "groupwise": False}],
                "limits": {"body": 20_000, "pixels": 600, "total_pixels": 1100, "candidates": 3},
            }

    with_server(act)


def test_a_request_that_is_sent_again_is_judged_once_while_it_is_judged_and_after() -> None:
    async def act(session: ClientSession, reward: Counting) -> None:
        reward.go.clear()
        await hangs_up(session, reward, asked(), calls=1)
        second, third = asyncio.ensure_future(post(session, asked())), asyncio.ensure_future(post(session, asked()))
        await asyncio.sleep(0.1)
        reward.go.set()
        fourth = asyncio.ensure_future(post(session, asked()))
        for each in (second, third, fourth):
            async with await each as response:
                assert list(wire.decode(await response.read(), wire.MSGPACK, wire.Answer).values) == wanted()
        assert reward.calls == 1

    with_server(act)


def test_who_hangs_up_still_counts_until_the_work_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reward_server, "AT_ONCE", 2)

    async def act(session: ClientSession, reward: Counting) -> None:
        reward.go.clear()
        for count in (1, 2):
            await hangs_up(session, reward, asked(count), calls=count)
        async with await post(session, asked(3)) as response:
            assert response.status == 503, "its pictures would be the third request's in memory"
        again = asyncio.ensure_future(post(session, asked(2)))
        await asyncio.sleep(0.1)
        reward.go.set()
        assert (await again).status == 200, "what is judged already can be asked for"
        assert (await post(session, asked(3))).status == 200
        assert reward.calls == 3

    with_server(act, limits=wire.Limits())


def test_no_candidates_are_no_question() -> None:
    async def act(session: ClientSession, reward: Counting) -> None:
        async with await post(session, asked(0)) as response:
            assert wire.decode(await response.read(), wire.MSGPACK, wire.Answer).values == ()
        assert reward.calls == 0

    with_server(act)


def test_an_id_stands_for_one_request() -> None:
    async def act(session: ClientSession, reward: Counting) -> None:
        await post(session, asked())
        other = msgspec.structs.replace(asked(1), id=asked().id)
        async with await post(session, other) as response:
            assert response.status == 409
        assert reward.calls == 1

    with_server(act)


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [(QiError("no model; get one"), 422, "no model; get one"), (RuntimeError("odd"), 500, "RuntimeError: odd")],
)
def test_a_reward_that_raises_is_told_and_asked_anew_next_time(error: Exception, status: int, told: str) -> None:
    async def act(session: ClientSession, reward: Counting) -> None:
        reward.fails = [error]
        async with await post(session, asked()) as response:
            assert (response.status, await problem(response)) == (status, told)
        async with await post(session, asked()) as response:
            assert response.status == 200
        assert reward.calls == 2

    with_server(act)


def item(**image: object) -> wire.Item:
    return wire.Item(key="k", group="g", prompt="p", image=wire.Image(**image))  # type: ignore[arg-type]


def packed(mode: str, width: int, height: int) -> bytes:
    file = BytesIO()
    Image.new(mode, (width, height)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("candidates", "told"),
    [
        ([item(height=30, width=30, data=bytes(2700))], "a picture of 30x30; at most 600 pixels"),
        ([item(height=0, width=5, data=b"")], "a picture of 5x0"),
        ([item(height=20, width=20, data=bytes(1200))] * 3, "1200 pixels in all; at most 1100"),
        ([item(height=1, width=1, data=bytes(3))] * 4, "4 candidates; at most 3"),
        ([item(height=5, width=5, data=bytes(74))], "74 bytes for 5x5 pixels; wanted 75"),
        ([item(height=5, width=5, data=packed("RGB", 4000, 4000)[:15000], encoding="png")], "a PNG of 4000x4000"),
        ([item(height=5, width=5, data=packed("RGBA", 5, 5), encoding="png")], "mode RGBA; wanted 5x5, mode RGB"),
        ([item(height=5, width=5, data=packed("RGB", 5, 5)[:45], encoding="png")], "a PNG that cannot be decoded"),
        ([item(height=5, width=5, data=b"P6 5 5 255 " + bytes(75), encoding="png")], "a PNG that cannot be decoded"),
    ],
)
def test_pictures_that_are_too_large_or_not_what_they_claim_are_refused(candidates: list[wire.Item], told: str) -> None:
    async def act(session: ClientSession, reward: Counting) -> None:
        async with await post(session, wire.Request(id="x", reward="first", candidates=tuple(candidates))) as response:
            assert response.status == 400
            assert told in await problem(response)
        assert reward.calls == 0

    with_server(act)


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (bytes(20_001), wire.MSGPACK, 413),
        (pickle.dumps({"images": []}), wire.MSGPACK, 400),
        (pickle.dumps({"images": []}), "application/octet-stream", 415),
        (b"{", wire.JSON, 400),
        (msgspec.json.encode({**msgspec.to_builtins(asked(0)), "id": "x" * 129}), wire.JSON, 400),
        (b"[" * 5_000, wire.JSON, 400),
        (msgspec.msgpack.encode({"schema": 2}), wire.MSGPACK, 400),
        (msgspec.json.encode({**msgspec.to_builtins(asked(0)), "odd": 1}), wire.JSON, 400),
        (wire.encode(asked(reward="second"), wire.MSGPACK), wire.MSGPACK, 404),
    ],
)
def test_what_is_no_request_is_refused(body: bytes, kind: str, status: int) -> None:
    async def act(session: ClientSession, reward: Counting) -> None:
        async with session.post("/v1/score", data=body, headers={"Content-Type": kind}) as response:
            assert response.status == status, await response.read()
        assert reward.calls == 0

    with_server(act)


def test_a_body_that_does_not_tell_its_length_is_cut_off_at_the_limit() -> None:
    async def endless() -> object:
        for _ in range(1000):
            yield bytes(1000)

    async def act(session: ClientSession, reward: Counting) -> None:
        async with session.post("/v1/score", data=endless(), headers=HEADERS) as response:
            assert response.status == 413

    with_server(act)


@pytest.mark.parametrize("given", [{}, {"Authorization": "Bearer secre"}, {"Authorization": "secret"}])
def test_without_the_token_nobody_learns_more_than_that_it_is_there(given: dict[str, str]) -> None:
    async def act(session: ClientSession, reward: Counting) -> None:
        assert (await session.get("/v1/health", headers=given)).status == 200
        assert (await session.get("/v1/rewards", headers=given)).status == 401
        assert (await session.post("/v1/score", data=b"", headers=HEADERS | given)).status == 401
        right = {"Authorization": "Bearer secret"}
        assert (await session.get("/v1/rewards", headers=right)).status == 200

    with_server(act, token="secret")


def test_a_page_that_names_this_machine_otherwise_is_refused_where_there_is_no_token() -> None:
    async def act(session: ClientSession, reward: Counting) -> None:
        for host, status in (("evil.example", 403), ("localhost:8471", 200), ("[::1]:8471", 200)):
            assert (await session.get("/v1/rewards", headers={"Host": host})).status == status

    with_server(act)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org", ""])
def test_it_listens_to_others_only_with_a_token(host: str) -> None:
    with pytest.raises(QiError, match="could call without a token"):
        asyncio.run(serve({}, host=host, port=0))


def test_loopback_names() -> None:
    assert all(map(is_loopback, ("localhost", "127.0.0.1", "127.9.9.9", "::1")))


def test_a_port_that_is_taken_is_told_in_one_line() -> None:
    async def main() -> None:
        other = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        port = other.sockets[0].getsockname()[1]
        with pytest.raises(QiError, match=rf"127.0.0.1:{port}: can't listen there"):
            await serve({}, host="127.0.0.1", port=port)
        other.close()

    asyncio.run(main())
