"""Caches of other machines, read over HTTP."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from qi_core.errors import QiError
from support.caching import fill, held, shards_of, shelf_at


class Static(SimpleHTTPRequestHandler):
    """A static server that knows Range: the standard library's doesn't."""

    protocol_version = "HTTP/1.1"
    ranges, spoil, token = True, False, ""
    asked: list[str]
    connections: list[socket.socket]

    def setup(self) -> None:
        super().setup()
        self.connections.append(self.connection)

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.token and self.headers.get("Authorization") != f"Bearer {self.token}":
            return self._send(401, b"")
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            return self._send(404, b"")
        data = path.read_bytes()
        wanted = self.headers.get("Range")
        if not wanted or not self.ranges:
            return self._send(200, data)
        start, end = map(int, wanted.removeprefix("bytes=").split("-"))
        part = data[start : end + 1]
        if self.spoil:
            part = bytes([part[0] ^ 1]) + part[1:]
        return self._send(206, part, ("Content-Range", f"bytes {start}-{end}/{len(data)}"))

    def _send(self, status: int, body: bytes, *headers: tuple[str, str]) -> None:
        self.send_response(status)
        for name, value in (("Content-Length", str(len(body))), *headers):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def served(folder: Path, **settings: Any) -> Generator[tuple[str, list[str]]]:
    asked: list[str] = []
    connections: list[socket.socket] = []
    handler = type("Served", (Static,), {"asked": asked, "connections": connections, **settings})
    server = ThreadingHTTPServer(("127.0.0.1", 0), lambda *args: handler(*args, directory=str(folder)))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        thread.join()
        for connection in connections:  # as a process that is gone
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        server.server_close()


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A cache of 20 entries."""
    shelf = shelf_at(tmp_path / "theirs")
    fill(shelf, range(20))
    shelf.close()
    return tmp_path / "theirs"


def test_what_a_mirror_has_is_read_there_in_few_requests_and_kept(tmp_path: Path, theirs: Path) -> None:
    with served(theirs) as (address, asked):
        shelf = shelf_at(tmp_path / "ours", mirrors=(address,))
        assert held(shelf, range(30)) == set(range(20))
        assert len(asked) == 3  # the manifest, an index, one stretch of the shard
        assert shelf.stats()["from mirrors"] == 20
        shelf.close()
    again = shelf_at(tmp_path / "ours")  # now without it
    assert held(again, range(30)) == set(range(20))
    again.close()


def test_nothing_is_kept_where_that_is_not_wanted(tmp_path: Path, theirs: Path) -> None:
    with served(theirs) as (address, _):
        shelf = shelf_at(tmp_path / "ours", mirrors=(address,), keep=False)
        assert held(shelf, range(20)) == set(range(20))
        shelf.close()
    assert shards_of(tmp_path / "ours") == []


def test_a_damaged_shard_is_repaired_from_a_mirror_that_has_it(tmp_path: Path, theirs: Path) -> None:
    ours = tmp_path / "ours"
    shelf = shelf_at(ours)
    fill(shelf, range(20))
    shelf.close()
    (mine,), (other,) = shards_of(ours), shards_of(theirs)
    os.rename(other, other.with_name(mine.name))  # the same shard, by name: made in another second
    (theirs / "manifest.jsonl").write_bytes((ours / "manifest.jsonl").read_bytes())
    data = bytearray(mine.read_bytes())
    data[4096] ^= 1
    mine.write_bytes(data)
    told: list[str] = []
    with served(theirs) as (address, _):
        again = shelf_at(ours, told, mirrors=(address,))
        assert held(again, range(20)) == set(range(20))
        assert len(told) == 1
        assert held(again, range(20)) == set(range(20))
        again.close()


def test_a_mirror_of_another_version_of_the_format_is_told_and_not_read(tmp_path: Path, theirs: Path) -> None:
    manifest = theirs / "manifest.jsonl"
    manifest.write_bytes(manifest.read_bytes().rpartition(b'"')[0][:-16] + b'0badcafe"}\n')
    told: list[str] = []
    with served(theirs) as (address, _):
        shelf = shelf_at(tmp_path / "ours", told, mirrors=(address,))
        assert held(shelf, range(20)) == set()
        shelf.close()
    assert [f"{address}/manifest.jsonl: a cache of version 1" in line for line in told] == [True]


@pytest.mark.parametrize(
    ("settings", "why"),
    [({"ranges": False}, "it knows no Range"), ({"spoil": True}, "")],
    ids=["a server without Range", "bytes that were damaged on the way"],
)
def test_a_mirror_that_gives_something_else_is_not_believed(
    tmp_path: Path, theirs: Path, settings: dict[str, Any], why: str
) -> None:
    told: list[str] = []
    with served(theirs, **settings) as (address, _):
        shelf = shelf_at(tmp_path / "ours", told, mirrors=(address,))
        have = held(shelf, range(20))
        assert have == (set(range(1, 20)) if not why else set())
        assert [why in line for line in told] == ([True] if why else [])
        shelf.close()


def test_a_mirror_that_is_gone_is_told_once_and_left_alone(tmp_path: Path, theirs: Path) -> None:
    told: list[str] = []
    with served(theirs) as (address, _):
        shelf = shelf_at(tmp_path / "ours", told, mirrors=(address, "http://127.0.0.1:9"), keep=False)
        assert held(shelf, range(20)) == set(range(20))
    assert len(told) == 1
    assert "127.0.0.1:9" in told[0]
    for _ in range(3):
        assert held(shelf, range(20)) == set()
    assert len(told) == 2
    fill(shelf, range(20))
    assert held(shelf, range(20)) == set(range(20))
    shelf.close()


def test_a_wrong_token_stops_the_start(tmp_path: Path, theirs: Path) -> None:
    (tmp_path / "token").write_text("secret\n")
    with served(theirs, token="secret") as (address, _):
        with pytest.raises(QiError, match=r"status 401; the right token was wanted; set data\.cache\.token_file"):
            shelf_at(tmp_path / "ours", mirrors=(address,))
        shelf = shelf_at(tmp_path / "ours", mirrors=(address,), token_file=tmp_path / "token")
        assert held(shelf, range(20)) == set(range(20))
        shelf.close()
    with pytest.raises(QiError, match=r"data\.cache\.token_file: .*none: no token can be read"):
        shelf_at(tmp_path / "ours", token_file=tmp_path / "none")
