"""A producer's addresses: who is let in, what each answer means, and that an order is carried out once."""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from qi_core import QiError
from qi_core.packing import read
from qi_core.plane import wire
from qi_core.plane.orders import Caps, Orders, Specs
from qi_core.plane.producer import Call, Producer
from qi_core.plane.server import Door, serve
from qi_core.plane.workers import Threads
from qi_core.portions import Order, Portion
from support.producing import ILL, SPEC, build, definition, ordered, portion_of, serving, told

LOCAL = Door(port=0)


def call(
    address: str, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
) -> tuple[int, bytes, Any]:
    where = wire.Address.of(address)
    connection = http.client.HTTPConnection(where.host, where.port, timeout=20)
    connection.request(method, path, body, headers or {})
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response.status, content, response.headers


def post(address: str, order: Order) -> tuple[int, bytes, Any]:
    return call(address, "POST", wire.PORTION, wire.asked(order))


def test_an_order_is_answered_with_a_portion_its_checksum_and_its_name() -> None:
    with serving(LOCAL) as ((address,), _):
        order = ordered(3)
        status, content, headers = post(address, order)
        assert status == 200
        assert told(read(memoryview(bytearray(content)))) == told(portion_of(order))
        assert headers[wire.MADE_BY] == SPEC
        assert headers[wire.ANSWERS] == wire.name_of(wire.asked(order))
        assert wire.decode(call(address, "GET", wire.HEALTH)[1], wire.Health).specs == (SPEC,)
        stats = wire.Stats()
        while not stats.sent:  # it is counted after it has arrived
            stats = wire.decode(call(address, "GET", wire.STATS)[1], wire.Stats)
        assert (stats.orders, stats.sent, stats.bytes) == (1, 1, len(content))


def test_what_is_no_order_is_told() -> None:
    good = json.loads(wire.asked(ordered(1)))
    with serving(LOCAL, makes=Threads(build)) as ((address,), _):
        for body, status, why in [
            (b"{", 400, "no asked"),
            (json.dumps({**good, "schema": 9}).encode(), 400, "schema 9; wanted 1"),
            (json.dumps({**good, "slots": [1]}).encode(), 400, "2 tickets for 1 slots"),
            (json.dumps({**good, "tickets": [["x"], [1]]}).encode(), 400, "no asked"),
            (b" " * (wire.LARGEST + 1), 413, ""),
            (wire.asked(ordered(1, spec="newer")), 409, "spec newer is not known here (known: spec-1)"),
            (wire.asked(ordered(1, ILL)), 422, "no usable sample is left"),
        ]:
            found, content, _ = call(address, "POST", wire.PORTION, body)
            assert found == status
            assert why in wire.decode(content, wire.Problem).error
        assert call(address, "GET", "/v1/nothing")[0] == 404


def test_who_asks_twice_or_again_gets_what_was_made_once() -> None:
    made: list[int] = []
    go = threading.Event()

    def slowly(order: Order) -> Portion:
        made.append(order.step)
        go.wait(20)
        return portion_of(order)

    with serving(LOCAL, makes=slowly) as ((address,), orders):
        asking = [threading.Thread(target=post, args=(address, ordered(1))) for _ in range(3)]
        for thread in asking:
            thread.start()
        while orders.counts["orders"] < 3:
            time.sleep(0.01)
        go.set()
        for thread in asking:
            thread.join(20)
        assert post(address, ordered(1))[0] == 200
    assert made == [1]


def test_when_full_it_says_when_to_come_again_and_what_nobody_fetches_does_not_fill_it() -> None:
    go = threading.Event()

    def slowly(order: Order) -> Portion:
        go.wait(20)
        return portion_of(order)

    with serving(LOCAL, makes=slowly, caps=Caps(orders=1, kept=0)) as ((address,), orders):
        where = wire.Address.of(address)
        gone = http.client.HTTPConnection(where.host, where.port)
        gone.request("POST", wire.PORTION, wire.asked(ordered(1)))
        while orders.counts["orders"] < 1:
            time.sleep(0.01)
        status, _, headers = post(address, ordered(2))
        assert (status, headers["Retry-After"]) == (503, "1")
        gone.close()
        go.set()
        while post(address, ordered(2))[0] == 503:
            time.sleep(0.01)
        until = time.monotonic() + 20
        while orders.in_memory():
            assert time.monotonic() < until
            time.sleep(0.01)


def test_with_a_token_nobody_else_is_let_in() -> None:
    with serving(Door(port=0, token="secret")) as ((address,), _):
        assert post(address, ordered(1))[0] == 401
        for token, status in (("wrong", 401), ("secret", 200)):
            headers = {"Authorization": f"Bearer {token}"}
            assert call(address, "POST", wire.PORTION, wire.asked(ordered(1)), headers)[0] == status
        assert call(address, "GET", wire.STATS)[0] == 401
        assert call(address, "GET", wire.HEALTH)[0] == 200


def test_without_a_token_only_this_machine_by_its_own_name_is() -> None:
    with serving(LOCAL) as ((address,), _):
        assert call(address, "GET", wire.HEALTH, headers={"Host": "evil.example"})[0] == 403
    with pytest.raises(QiError, match="others could call without a token"):
        Door(host="0.0.0.0", port=0)


def test_it_is_given_specs_and_refuses_one_that_it_would_call_otherwise() -> None:
    with serving(LOCAL, specs=()) as ((address,), _):
        assert post(address, ordered(1))[0] == 409
        good = wire.encode(wire.Spec(spec=SPEC, definition=definition()))
        assert call(address, "POST", wire.SPEC, good)[0] == 200
        assert post(address, ordered(1))[0] == 200
        skewed = wire.encode(wire.Spec(spec="mine", definition=definition("yours")))
        status, content, _ = call(address, "POST", wire.SPEC, skewed)
        assert status == 422
        assert "version skew" in wire.decode(content, wire.Problem).error


def test_shards_are_given_in_stretches_and_nothing_else_is(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "a1.safetensors").write_bytes(bytes(range(200)))
    (tmp_path / "secret").write_text("x")
    with serving(LOCAL, shards=tmp_path / "shards") as ((address,), _):
        status, content, headers = call(
            address, "GET", f"{wire.SHARD}/a1.safetensors", headers={"Range": "bytes=10-19"}
        )
        assert (status, content, headers["Content-Range"]) == (206, bytes(range(10, 20)), "bytes 10-19/200")
        for name in ("../secret", "..%2Fsecret", "..", "absent", ".hidden"):
            assert call(address, "GET", f"{wire.SHARD}/{name}")[0] == 404


def test_a_unix_socket_is_this_users_alone_and_taken_over_from_the_dead(tmp_path: Path) -> None:
    path = tmp_path / "s"
    for _ in range(2):
        with serving(Door(socket=path)) as ((address,), _):
            assert address == f"unix:{path}"
            assert path.stat().st_mode & 0o777 == 0o600
        path.touch()  # what a killed producer leaves


def test_a_unix_socket_that_another_producer_took_over_is_left_to_it(tmp_path: Path) -> None:
    """A trainer that was killed is soon started again, while its old producer still ends."""
    path = tmp_path / "s"
    with serving(Door(socket=path)), ExitStack() as old:
        old.enter_context(serving(Door(socket=path)))
    assert not path.exists()
    with ExitStack() as old:
        old.enter_context(serving(Door(socket=path)))
        with serving(Door(socket=path)):
            old.close()
            caller = Producer(wire.Address.of(f"unix:{path}"), Call()).connect()
            caller.request("GET", wire.HEALTH)
            assert caller.getresponse().read()
            caller.close()
        assert not path.exists()


def test_who_is_told_to_stop_before_it_listens_takes_nothing_over(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("another's")

    async def run() -> None:
        stop = asyncio.Event()
        stop.set()
        orders = Orders(Threads(lambda _: portion_of), Caps())
        await serve(orders, Specs(str), Door(socket=path), stop=stop)

    asyncio.run(run())
    assert path.read_text() == "another's"
