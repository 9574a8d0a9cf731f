"""Source ``webdataset``, and what goes wrong: servers, shards, samples, tokens, names."""

from __future__ import annotations

import os
import tarfile
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from aiohttp import web
from attrs import evolve

from qi_core import Place, QiError
from support.listening import listening
from support.shards import Server, built, drawn, pack, png, settings, write


@pytest.fixture
def place(tmp_path: Path) -> Place:
    run = tmp_path / "run"
    run.mkdir()
    return Place(device=torch.device("cpu"), dtype=torch.float32, seed=7, folder=run)


def test_a_server_that_stumbles_changes_nothing(tmp_path: Path, place: Place) -> None:
    folder = write(tmp_path / "data", 3)
    wanted = drawn(settings(tmp_path, folder), place, 15)
    server = Server(folder)
    with server.running() as url:
        component = settings(tmp_path / "other", f"{url}/s-{{000..002}}.tar", patience=30.0)
        server.failing.update({"s-000.tar": 2, "s-002.tar": 1})
        server.cut.update({"s-001.tar": 2})
        found = drawn(component, place, 15)
    assert found == wanted
    assert not (place.folder / "skipped.jsonl").exists()


@pytest.mark.parametrize(
    ("max_lost", "shards", "wanted"),
    [(0.0, 40, "1 of 40 shards are lost"), (0.05, 1, "1 of 1 shards are lost"), (0.05, 40, "")],
)
def test_lost_shards_end_the_run_when_they_are_too_many(
    max_lost: float, shards: int, wanted: str, tmp_path: Path, place: Place
) -> None:
    folder = write(tmp_path / "data", shards, samples=1)
    (folder / "s-000.tar").write_bytes(b"rubbish" * 1000)
    component = settings(tmp_path, folder, max_lost=max_lost, window=40)
    with built(component, place) as source:
        if wanted:
            with pytest.raises(QiError, match=wanted):
                source.plan(1)
            return
        assert len({ticket[1] for ticket in source.plan(39)}) == 39
        assert source.report() == {"shard: broken tar shard": 1}
    assert '"s-000.tar"' in (place.folder / "skipped.jsonl").read_text()


def test_a_server_that_dies_is_waited_for_once_and_then_told(tmp_path: Path, place: Place) -> None:
    """The first request that has waited in vain spares the others the wait."""
    folder = write(tmp_path / "data", 2, samples=40)
    with Server(folder).running() as url:
        component = settings(tmp_path, f"{url}/s-{{000..001}}.tar", patience=1.0, workers=1)
        source = component.build(place, 8)
        tickets = source.plan(40)
    begun = time.monotonic()
    reasons = Counter[str]()
    for ticket in tickets:
        try:
            source.make(ticket)
        except Exception as error:
            reasons[getattr(error, "reason", str(error))] += 1
    source.close()
    assert reasons == {"cannot be reached": 40}
    assert time.monotonic() - begun < 30, "each for itself would be 40"


def test_a_broken_sample_is_told_and_another_stands_in(tmp_path: Path, place: Place) -> None:
    shard = pack(
        tmp_path / "a.tar",
        [(f"{n}.{s}", b) for n in range(4) for s, b in (("png", png(n) if n else b"x" * 90), ("txt", b"c"))],
    )
    with built(settings(tmp_path, shard), place) as source:
        found = [sample.key for sample in source.draw(8)]
        assert source.report() == {"not a picture": 1}
    assert len(found) == 8
    assert "a.tar/0" not in found


def test_a_shard_cut_off_gives_what_is_whole(tmp_path: Path, place: Place) -> None:
    folder = write(tmp_path / "data", 1)
    shard = folder / "s-000.tar"
    with tarfile.open(shard) as tar:
        middle = tar.getmembers()[5]
    shard.write_bytes(shard.read_bytes()[: middle.offset_data + 3])
    with built(settings(tmp_path, shard), place) as source:
        assert {sample.key for sample in source.draw(6)} == {"s-000.tar/n/0000", "s-000.tar/n/0001"}
        assert source.report()["broken tar shard"] >= 1


def test_a_server_without_parts_is_told_and_may_be_fetched_from_whole(tmp_path: Path, place: Place) -> None:
    folder = write(tmp_path / "data", 3)
    server = Server(folder)
    server.ranges = False
    with server.running() as url:
        component = settings(tmp_path, f"{url}/s-{{000..002}}.tar")
        with built(component, place) as source, pytest.raises(QiError, match=r"set source.keep = 'shards'"):
            source.plan(1)
        found = drawn(evolve(component, keep="shards"), place, 15)
        asked = len(server.asked)
        assert drawn(evolve(component, keep="shards"), place, 15) == found
        assert len(server.asked) == asked, "what is kept is not asked for again"
    assert len({key for key, *_ in found}) == 15


def test_shards_that_were_used_longest_ago_make_room(
    tmp_path: Path, place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    """And so does what a process left that was killed while it fetched. Too little room is told, once."""
    folder = write(tmp_path / "data", 6)
    (tmp_path / "cache").mkdir()
    left, going_on = (tmp_path / "cache" / f"x.{number}.part" for number in (1, 2))
    left.touch()
    going_on.touch()
    os.utime(left, (1, 1))
    size = (folder / "s-000.tar").stat().st_size
    with Server(folder).running() as url:
        component = settings(tmp_path, f"{url}/s-{{000..005}}.tar", keep="shards", keep_gib=4.5 * size / 2**30)
        found = drawn(component, place, 30)
        assert sum(path.stat().st_size for path in (tmp_path / "cache").glob("*.tar")) <= 4.5 * size
        assert (left.exists(), going_on.exists()) == (False, True)
        assert caplog.text.count("raise source.keep_gib") == 1
        assert drawn(evolve(component, keep_gib=1.0), place, 30) == found
        small = evolve(component, keep_gib=0.5 * size / 2**30, cache=str(tmp_path / "x"))
        with built(small, evolve(place, folder=tmp_path)) as source, pytest.raises(QiError, match="shard too large"):
            source.plan(1)


def test_a_token_goes_to_its_server_alone(tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path / "data", 2)
    server = Server(folder)
    server.token = "s3cret"
    monkeypatch.setenv("SHARDS", "s3cret")
    with server.running() as url:
        component = settings(tmp_path, f"{url}/s-{{000..001}}.tar")
        with built(component, place) as source, pytest.raises(QiError, match="401; give its token by token_env"):
            source.plan(1)
        assert len(drawn(evolve(component, token_env="SHARDS"), place, 10)) == 10
        with pytest.raises(QiError, match="a token is for one server"):
            evolve(component, shards=(*component.shards, "http://elsewhere/a.tar"), token_env="SHARDS").build(place, 8)
    assert "s3cret" not in "".join(path.read_text(errors="replace") for path in tmp_path.rglob("*") if path.is_file())


def test_a_token_is_not_sent_on_to_where_a_server_sends_us(
    tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As hosts of data sets do, whose files lie elsewhere."""
    folder = write(tmp_path / "data", 2)
    monkeypatch.setenv("SHARDS", "s3cret")
    told: list[tuple[str, str]] = []
    store = Server(folder)

    async def there(request: web.Request) -> web.StreamResponse:
        told.append(("store", request.headers.get("Authorization", "")))
        return await store.answer(request)

    async def here(request: web.Request) -> web.StreamResponse:
        told.append(("front", request.headers.get("Authorization", "")))
        raise web.HTTPFound(f"{elsewhere}/{request.match_info['name']}")

    front, back = web.Application(), web.Application()
    front.router.add_get("/{name:.*}", here)
    back.router.add_get("/{name:.*}", there)
    with listening(back) as elsewhere, listening(front) as url:
        component = settings(tmp_path, f"{url}/s-{{000..001}}.tar", token_env="SHARDS")
        assert len(drawn(component, place, 10)) == 10
    assert set(told) == {("front", "Bearer s3cret"), ("store", "")}


@pytest.mark.parametrize(
    ("told", "body", "wanted"),
    [
        ("bytes 512-1023/99999", 512, "another part than was asked for"),
        ("bytes 0-511/99999", 511, "cut off|broken one"),
        ("bytes 0-511/99999", 9000, "more bytes than were asked for"),
        ("rubbish", 512, "another part than was asked for"),
    ],
)
def test_a_server_that_lies_is_not_believed(told: str, body: int, wanted: str, tmp_path: Path, place: Place) -> None:
    async def lie(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(status=206, headers={"Content-Range": told})
        answer.enable_chunked_encoding()
        await answer.prepare(request)
        await answer.write(bytes(body))
        await answer.write_eof()
        return answer

    app = web.Application()
    app.router.add_get("/{name:.*}", lie)
    lost = pytest.raises(QiError, match=f"1 of 1 shards are lost.*({wanted})")
    with listening(app) as url, built(settings(tmp_path, f"{url}/a.tar", patience=0.5), place) as source, lost:
        source.plan(1)


@pytest.mark.parametrize(
    ("shards", "wanted"),
    [
        (["nothing/*.tar"], "nothing is there"),
        (["data/s-{000..9}.tar"], "there is no"),
        (["data/s-{x}.tar"], "neither"),
        (["data/s-000.tar", "data"], "is named twice"),
        (["data/a.tar.gz"], "a compressed tar has no random access"),
        (["http://me:pw@host/a.tar"], "without user and password"),
        (["http://host/a.tar?X-Sig=pw1", "http://host/a.tar?X-Sig=pw2"], "named twice, with two signatures"),
        (["http://host/{0..9999999}.tar"], "no range of shards"),
    ],
)
def test_shards_that_are_not_there_are_told_at_once(
    shards: list[str], wanted: str, tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "data", 2)
    (tmp_path / "data" / "a.tar.gz").write_bytes(b"")
    with pytest.raises(QiError, match=wanted) as error:
        settings(tmp_path, *shards).build(place, 8)
    assert "\n" not in str(error.value)
    assert "pw" not in str(error.value)


def test_lists_and_patterns_name_shards_alike(tmp_path: Path, place: Place) -> None:
    folder = write(tmp_path / "data", 3)
    (tmp_path / "list.txt").write_text("# ours\ndata/s-00{0,1}.tar\ndata/s-002.tar  # the last\n")
    wanted = drawn(settings(tmp_path, folder), place, 15)
    for pattern in (tmp_path / "list.txt", folder / "*.tar", folder / "s-{000..002}.tar"):
        assert drawn(settings(tmp_path, pattern), place, 15) == wanted


def test_threads_that_make_the_same_samples_look_into_a_shard_once(tmp_path: Path, place: Place) -> None:
    folder = write(tmp_path / "data", 2)
    server = Server(folder)
    server.slow = 0.05
    with server.running() as url, built(settings(tmp_path, f"{url}/s-{{000..001}}.tar"), place) as source:
        tickets = source.plan(10)
        with built(settings(tmp_path / "x", f"{url}/s-{{000..001}}.tar"), place) as producer:
            server.asked.clear()
            made: list[str] = []
            threads = [threading.Thread(target=lambda t=t: made.append(producer.make(t).key)) for t in tickets]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    assert len(set(made)) == 10
    assert Counter(name for name, asked in server.asked if asked == "bytes=0-511") == {"s-000.tar": 1, "s-001.tar": 1}
