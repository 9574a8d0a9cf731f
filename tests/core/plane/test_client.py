"""Pulling portions: of producers that break, lie, hang, come late or know too little."""

from __future__ import annotations

import gc
import shutil
import socket
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from qi_core import QiError
from qi_core.checksum import checksum, hex_of
from qi_core.engine import Spec
from qi_core.packing import body, pack
from qi_core.plane import wire
from qi_core.plane.client import Care, Puller
from qi_core.plane.orders import Caps
from qi_core.plane.producer import Call
from qi_core.plane.pulling import Pulling
from qi_core.plane.ring import Ring
from qi_core.plane.server import Door
from qi_core.plane.workers import Threads
from qi_core.portions import Order, Portion
from support.producing import ILL, SPEC, build, definition, ordered, portion_of, serving, told

CARE = Care(window=4, timeout=20.0, hedge=20.0)


@contextmanager
def pulling(*addresses: str, care: Care = CARE, **given: object) -> Generator[Puller]:
    puller = Puller(addresses, care=care, **given)  # type: ignore[arg-type]
    try:
        yield puller
    finally:
        puller.close()


def all_of(puller: Puller, orders: list[Order]) -> list[list[tuple[str, int, str]]]:
    """Four ahead; no portion is held longer than it is looked at."""
    ahead, found = deque(puller.order(order) for order in orders[:4]), []
    for order in [*orders[4:], None, None, None, None][: len(orders)]:
        found.append(told(ahead.popleft().result(20)))
        if order is not None:
            ahead.append(puller.order(order))
    return found


def until(true: Callable[[], bool]) -> None:
    """Wait for it."""
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@contextmanager
def lying(answer: Callable[[socket.socket, bytes], None]) -> Generator[str]:
    """A server that reads requests and then does anything."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                request = b""
                while b"\r\n\r\n" not in request or not request.endswith(b"}"):
                    some = connection.recv(1 << 16)
                    if not some:
                        break
                    request += some
                if request:
                    answer(connection, request.partition(b"\r\n\r\n")[2])

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(20)


def head(order: bytes, content: bytes, **other: str) -> bytes:
    said = {
        "Content-Length": str(len(content)),
        wire.SUM: hex_of(checksum(content)),
        wire.MADE_BY: wire.order_of(order).spec,
        wire.ANSWERS: wire.name_of(order),
    }
    said |= {getattr(wire, name): value for name, value in other.items()}
    return "".join(["HTTP/1.1 200 OK\r\n", *(f"{k}: {v}\r\n" for k, v in said.items()), "\r\n"]).encode()


@pytest.fixture
def socket_path(tmp_path: Path) -> Path:
    return tmp_path / "s"


def test_portions_come_as_views_of_buffers_that_are_used_again(socket_path: Path) -> None:
    with serving(Door(socket=socket_path)) as ((address,), _), pulling(address) as puller:
        orders = [ordered(n) for n in range(40)]
        assert all_of(puller, orders) == [told(portion_of(order)) for order in orders]
        (told_of,) = puller.counted()
        assert (told_of.portions, told_of.gone, told_of.damaged) == (40, 0, 0)
        assert told_of.connections <= CARE.window
        assert puller.ring.made <= CARE.window + 2


def test_a_buffer_is_never_written_over_while_anything_looks_into_it() -> None:
    ring = Ring(4, pinned=False)
    lent = ring.lend(5000)
    view = torch.frombuffer(lent, dtype=torch.uint8)[7:9].view(2, 1)
    address = view.data_ptr() - 7
    assert address % 4096 == 0
    del lent
    gc.collect()
    assert ring.lent == 1
    another = torch.frombuffer(ring.lend(5000), dtype=torch.uint8)
    assert another.data_ptr() != address
    del view
    assert torch.frombuffer(ring.lend(5001), dtype=torch.uint8).data_ptr() == address
    assert ring.made == 2


@pytest.mark.parametrize("lie", ["short", "crc", "order", "noise", "endless", "nothing"])
def test_what_is_damaged_on_the_way_is_asked_for_again(lie: str, socket_path: Path) -> None:
    lies = 0

    def answer(connection: socket.socket, order: bytes) -> None:
        nonlocal lies
        lies += 1
        content = b"".join(body(pack(portion_of(wire.order_of(order)))))
        flipped = content[:-1] + bytes([content[-1] ^ 1])
        said = {
            "short": head(order, content) + content[:-5],
            "crc": head(order, content) + flipped,
            "order": head(order, content, ANSWERS="0" * 32) + content,
            "noise": head(order, bytes(5000)) + bytes(5000),
            "endless": head(order, content).replace(str(len(content)).encode(), b"9" * 15) + content,
            "nothing": b"",
        }[lie]
        connection.sendall(said)

    with lying(answer) as liar, serving(Door(port=0)) as ((honest,), _), pulling(liar, honest) as puller:
        orders = [ordered(n) for n in range(8)]
        assert all_of(puller, orders) == [told(portion_of(order)) for order in orders]
        told_of = {each.address: each for each in puller.counted()}
    assert told_of[honest].portions == 8
    assert told_of[liar].gone + told_of[liar].damaged == lies > 0
    assert told_of[liar].last


def test_a_producer_that_always_lies_is_no_accident() -> None:
    def answer(connection: socket.socket, order: bytes) -> None:
        connection.sendall(head(order, bytes(5000)) + bytes(5000))

    with lying(answer) as liar, pulling(liar, care=Care(window=1)) as puller:
        puller._producers[0].rest = lambda why, seconds=None: None  # type: ignore[method-assign]
        with pytest.raises(QiError, match=r"sent a portion that is none.* so were 8 answers to one order"):
            puller.order(ordered(1)).result(20)


def test_nobody_there_is_told_with_all_names_and_reasons(tmp_path: Path) -> None:
    addresses = ("http://127.0.0.1:9", f"unix:{tmp_path}/none")
    with pulling(*addresses, care=Care(timeout=0.5)) as puller, pytest.raises(QiError) as told_of:
        puller.order(ordered(1)).result(20)
    assert "http://127.0.0.1:9 (can't be reached (Connection refused))" in str(told_of.value)
    assert f"unix:{tmp_path}/none (can't be reached (No such file or directory))" in str(told_of.value)


def test_one_that_comes_later_is_found(socket_path: Path) -> None:
    with pulling(f"unix:{socket_path}") as puller:
        waiting = puller.order(ordered(1))
        time.sleep(0.3)
        with serving(Door(socket=socket_path)):
            assert told(waiting.result(20)) == told(portion_of(ordered(1)))


def test_a_slow_producer_is_overtaken_and_its_order_comes_from_another(socket_path: Path) -> None:
    """The nearer one hangs until all are there."""
    go = threading.Event()

    def hangs(order: Order) -> Portion:
        go.wait(60)
        return portion_of(order)

    care = Care(window=4, hedge=0.1)
    near, far = serving(Door(socket=socket_path), makes=hangs), serving(Door(port=0))
    with near as ((hung,), _), far as ((quick,), _), pulling(hung, quick, care=care) as puller:
        orders = [ordered(n) for n in range(20)]
        assert all_of(puller, orders) == [told(portion_of(order)) for order in orders]
        slow, quickly = puller.counted()
        go.set()
    assert slow.slow >= 1
    assert quickly.portions == 20


def test_equally_near_ones_share_the_work_and_a_busy_one_is_left_alone() -> None:
    go = threading.Event()

    def slowly(order: Order) -> Portion:
        go.wait(20)
        return portion_of(order)

    one, other = serving(Door(port=0), makes=slowly), serving(Door(port=0), makes=slowly, caps=Caps(orders=1))
    with one as ((first,), _), other as ((second,), _), pulling(first, second) as puller:
        ahead = [puller.order(ordered(n)) for n in range(4)]
        until(lambda: puller.counted()[1].busy == 1)
        go.set()
        assert [told(each.result(20)) for each in ahead] == [told(portion_of(ordered(n))) for n in range(4)]
        assert [each.portions for each in puller.counted()] == [3, 1]
        assert puller.counted()[1].busy == 1


def test_what_can_never_be_carried_out_is_an_error_at_once(socket_path: Path) -> None:
    door = Door(socket=socket_path, token="right")
    with serving(door, makes=Threads(build)) as ((address,), _):
        with pulling(address, call=Call(token="wrong")) as puller, pytest.raises(QiError, match="does not let us in"):
            puller.order(ordered(1)).result(20)
        with pulling(address, call=Call(token="right")) as puller:
            with pytest.raises(QiError, match=r"unix:.*: no usable sample is left"):
                puller.order(ordered(1, ILL)).result(20)
            assert told(puller.order(ordered(2)).result(20)) == told(portion_of(ordered(2)))


def test_what_one_cannot_carry_out_another_may(tmp_path: Path) -> None:
    """A producer that has lost its disk must not end a run."""

    def broken(order: Order) -> Portion:
        raise QiError("no space left")

    near, far = serving(Door(socket=tmp_path / "near"), makes=broken), serving(Door(port=0))
    with near as ((ill,), _), far as ((well,), _), pulling(ill, well) as puller:
        assert told(puller.order(ordered(1)).result(20)) == told(portion_of(ordered(1)))
        assert "no space left" in puller.counted()[0].last


def test_what_one_cannot_carry_out_waits_for_another_that_is_busy(tmp_path: Path) -> None:
    def broken(order: Order) -> Portion:
        raise QiError("no space left")

    near, far = serving(Door(socket=tmp_path / "near"), makes=broken), serving(Door(port=0))
    with near as ((ill,), _), far as ((well,), _), pulling(ill, well) as puller:
        puller._producers[1].rest("busy", 0.3)
        assert told(puller.order(ordered(1)).result(20)) == told(portion_of(ordered(1)))
        for _ in range(7):  # of seconds
            puller._producers[1].rest("can't be reached")
        with pytest.raises(QiError, match="no space left"):
            puller.order(ordered(2)).result(20)


def test_a_producer_that_does_not_know_the_spec_is_given_it_or_it_is_skew(socket_path: Path) -> None:
    with serving(Door(socket=socket_path), makes=Threads(build)) as ((address,), _):
        with pulling(address, define=definition) as puller:
            assert [told(puller.order(ordered(n, spec=f"spec-{n}")).result(20)) for n in (1, 7, 1, 8)] == [
                told(portion_of(ordered(n, spec=f"spec-{n}"))) for n in (1, 7, 1, 8)
            ]
        for define in (lambda spec: None, lambda spec: definition("another")):
            with pulling(address, define=define) as puller, pytest.raises(QiError, match="version skew"):
                puller.order(ordered(1, spec="mine")).result(20)


def test_a_window_that_is_full_makes_the_orderer_wait(socket_path: Path) -> None:
    go = threading.Event()

    def slowly(order: Order) -> Portion:
        go.wait(20)
        return portion_of(order)

    producer = serving(Door(socket=socket_path), makes=slowly)
    with producer as ((address,), orders), pulling(address, care=Care(window=2)) as puller:
        ordering = threading.Thread(target=lambda: [puller.order(ordered(n)) for n in range(3)])
        ordering.start()
        until(lambda: orders.counts["orders"] == 2)
        time.sleep(0.1)
        assert ordering.is_alive()
        assert orders.counts["orders"] == 2
        go.set()
        ordering.join(20)
        assert not ordering.is_alive()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes certificates with openssl")
def test_with_certificates_each_side_checks_the_other(tmp_path: Path) -> None:
    def openssl(*given: str) -> None:
        subprocess.run(["openssl", *given], check=True, capture_output=True, cwd=tmp_path)

    def party(name: str, authority: str) -> wire.Tls:
        openssl(*f"req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout {name}.key -subj /CN={name}".split(),
                "-addext", "subjectAltName=IP:127.0.0.1", "-out", f"{name}.csr")  # fmt: skip
        openssl(*f"x509 -req -in {name}.csr -CA {authority}.pem -CAkey {authority}.key -copy_extensions copy".split(),
                "-out", f"{name}.pem")  # fmt: skip
        return wire.Tls(
            certificate=tmp_path / f"{name}.pem", key=tmp_path / f"{name}.key", authority=tmp_path / "ours.pem"
        )

    for name in ("ours", "theirs"):
        openssl(*f"req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout {name}.key".split(),
                *f"-out {name}.pem -subj /CN={name}".split())  # fmt: skip
    producer, trainer, stranger = party("producer", "ours"), party("trainer", "ours"), party("stranger", "theirs")
    with serving(Door(port=0, host="127.0.0.1", tls=producer)) as ((address,), _):
        assert address.startswith("https://")
        with pulling(address, call=Call(tls=trainer.client())) as puller:
            large = ordered(3, size=2000)
            assert told(puller.order(large).result(20)) == told(portion_of(large))
        refused = pulling(address, call=Call(tls=stranger.client()), care=Care(timeout=0.5))
        with refused as puller, pytest.raises(QiError, match="no producer gave a portion"):
            puller.order(ordered(1)).result(20)


def test_figures_of_a_producer_that_was_away_are_never_below_nothing(socket_path: Path) -> None:
    with serving(Door(socket=socket_path)) as ((address,), _):
        engine = Pulling([address], Call(), CARE, pinned=False)
        engine.begin(Spec(digest=SPEC, recipe="", maker=None))  # type: ignore[arg-type]
        try:
            for number, wanted in ((1, 2), (2, 1)):
                for again in range(wanted):
                    engine.carry_out(ordered(10 * number + again)).result(20)
                assert engine.figures()["producers/portions"] == wanted
                engine.puller.meet(["http://127.0.0.1:9"])
                engine.puller.meet([address])
        finally:
            engine.close()


def test_addresses_that_are_none_are_refused() -> None:
    for text in ("localhost:80", "http://host", "unix:relative", "ftp://host:1", "http://host:99999", "http://h:1/x"):
        with pytest.raises(QiError, match="want http://host:port"):
            wire.Address.of(text)
