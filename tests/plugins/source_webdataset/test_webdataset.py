"""Source ``webdataset``: shards that the webdataset library wrote, on disk and behind a real HTTP server."""

from __future__ import annotations

import io
import json
import tarfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import webdataset
from aiohttp import web
from attrs import evolve
from PIL import Image
from webdataset.tariterators import group_by_keys, tar_file_expander

from qi_core import Place, QiError
from qi_core.testing import check_component, check_source
from qi_plugins.source_webdataset import index as indexes
from qi_plugins.source_webdataset.component import WebDataset
from qi_plugins.source_webdataset.live import WebSource
from support.listening import listening

SAMPLES = 5
"""A shard."""


def png(seed: int, side: int = 16) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def write(folder: Path, shards: int, samples: int = SAMPLES, **more: Callable[[int], Any]) -> Path:
    """By the library itself. ``more``: other members."""
    folder.mkdir(exist_ok=True)
    with webdataset.ShardWriter(str(folder / "s-%03d.tar"), maxcount=samples, verbose=0) as sink:
        for n in range(shards * samples):
            own = {suffix: make(n) for suffix, make in more.items()}
            sink.write({"__key__": f"n/{n:04}", "png": png(n), "txt": f"caption {n}", **own})
    return folder


def pack(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


class Server:
    """Files of a folder, with Range; and what may go wrong with it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[tuple[str, str]] = []
        """Paths and ranges."""
        self.bytes = 0
        self.failing: Counter[str] = Counter()
        """Times that a file will yet answer with 503."""
        self.missing: set[str] = set()
        self.token = ""
        self.ranges = True
        self.cut: Counter[str] = Counter()
        """Times that an answer will end in the middle."""
        self.slow = 0.0

    async def answer(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        self.asked.append((name, request.headers.get("Range", "")))
        path = self.folder / name
        if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            return web.Response(status=401)
        if self.failing[name]:
            self.failing[name] -= 1
            return web.Response(status=503, headers={"Retry-After": "0"})
        if name in self.missing or not path.is_file():
            return web.Response(status=404)
        if self.slow:
            import asyncio

            await asyncio.sleep(self.slow)
        if not self.ranges:
            return web.Response(body=path.read_bytes())
        if self.cut[name]:
            self.cut[name] -= 1
            data, (start, end) = path.read_bytes(), request.headers["Range"].removeprefix("bytes=").split("-")
            last = min(int(end), len(data) - 1)
            told = {"Content-Range": f"bytes {start}-{last}/{len(data)}", "Content-Length": str(last - int(start) + 1)}
            half = web.StreamResponse(status=206, headers=told)
            await half.prepare(request)
            await half.write(data[int(start) : (int(start) + last) // 2])
            assert request.transport is not None
            request.transport.close()
            return half
        return web.FileResponse(path)

    @contextmanager
    def running(self) -> Iterator[str]:
        app = web.Application()
        app.router.add_get("/{name:.*}", self.answer)
        with listening(app) as url:
            yield url


@pytest.fixture
def place(tmp_path: Path) -> Place:
    run = tmp_path / "run"
    run.mkdir()
    return Place(device=torch.device("cpu"), dtype=torch.float32, seed=7, folder=run)


def settings(tmp_path: Path, *shards: str | Path, **more: Any) -> WebDataset:
    given: dict[str, Any] = {"side": 16, "window": 2, "cache": str(tmp_path / "cache"), "patience": 5.0, **more}
    return WebDataset(shards=tuple(map(str, shards)), **given)


@contextmanager
def built(component: WebDataset, place: Place) -> Iterator[WebSource]:
    source = component.build(place, 8)
    try:
        yield source
    finally:
        source.close()


def drawn(component: WebDataset, place: Place, count: int) -> list[tuple[str, str, bytes]]:
    with built(component, place) as source:
        return [(s.key, s.prompt, s.image.permute(1, 2, 0).numpy().tobytes()) for s in source.draw(count)]


def by_library(folder: Path) -> dict[str, tuple[str, bytes]]:
    found = {}
    for shard in sorted(folder.glob("*.tar")):
        with shard.open("rb") as stream:
            for sample in group_by_keys(tar_file_expander([{"url": str(shard), "stream": stream}])):
                pixels = np.asarray(Image.open(io.BytesIO(sample["png"]))).tobytes()
                found[f"{shard.name}/{sample['__key__']}"] = (sample["txt"].decode(), pixels)
    return found


# --- the same samples as the library's ---


def test_it_is_a_component_and_a_source(tmp_path: Path) -> None:
    check_component(WebDataset)
    shards = write(tmp_path / "data", 3)
    check_source(settings(tmp_path, shards), count=2 * 3 * SAMPLES + 3)


@pytest.mark.parametrize("how", ["disk", "ranges", "whole"])
def test_an_epoch_has_each_sample_of_the_library_once_wherever_the_shards_lie(
    how: str, tmp_path: Path, place: Place
) -> None:
    """In one and the same order, in the next epoch in another."""
    folder = write(tmp_path / "data", 4)
    wanted = by_library(folder)
    with Server(folder).running() as url:
        where = str(folder) if how == "disk" else f"{url}/s-{{000..003}}.tar"
        component = settings(tmp_path, where, keep="shards" if how == "whole" else "indexes")
        found = drawn(component, place, 2 * len(wanted))
    first, second = found[: len(wanted)], found[len(wanted) :]
    assert {key: (prompt, pixels) for key, prompt, pixels in first} == wanted
    assert sorted(first) == sorted(second)
    assert first != second
    keys = [int(key.rpartition("/")[2]) for key, _, _ in first]
    assert keys == [18, 19, 3, 1, 2, 0, 15, 16, 17, 4, 8, 5, 9, 7, 13, 6, 10, 11, 14, 12]


def test_references_and_captions_in_json_and_other_members_are_what_the_layout_says(
    tmp_path: Path, place: Place
) -> None:
    """Pictures to edit in the order of their numbers; what lies between is not even read."""
    shard = pack(
        tmp_path / "a.tar",
        [
            ("1.png", png(1)),
            ("1.json", json.dumps({"prompt": "make it blue"}).encode()),
            ("1.seg.npy", bytes(2**20)),
            ("1.ref1.png", png(3)),
            ("1.ref0.png", png(2)),
            ("2.txt", b"no picture"),
            ("3.png", png(3)),
        ],
    )
    with Server(tmp_path).running() as url, built(settings(tmp_path, f"{url}/{shard.name}"), place) as source:
        (sample,) = source.draw(1)
        assert source.cost(source.plan(1)[0]) == 3 * 16 * 16
        assert source.report() == {"no picture under this name": 1, "caption missing": 1}
    assert (sample.key, sample.prompt) == ("a.tar/1", "make it blue")
    wanted = [np.asarray(Image.open(io.BytesIO(png(seed)))).transpose(2, 0, 1) for seed in (2, 3)]
    assert all(np.array_equal(a, b) for a, b in zip(sample.references, wanted, strict=True))


# --- indexes ---


def test_a_shard_is_looked_into_once_with_few_requests_and_never_again(tmp_path: Path, place: Place) -> None:
    """Small members are read through, large ones jumped over; a second start asks each shard for one block."""
    folder = tmp_path / "data"
    folder.mkdir()
    small = pack(
        folder / "small.tar", [(f"{n}.{s}", b) for n in range(400) for s, b in (("png", png(n)), ("txt", b"x"))]
    )
    large = pack(
        folder / "large.tar",
        [m for n in range(6) for m in ((f"{n}.png", png(n)), (f"{n}.npy", bytes(3 * 2**20)), (f"{n}.txt", b"x"))],
    )
    server = Server(folder)
    with server.running() as url:
        component = settings(tmp_path, f"{url}/small.tar", f"{url}/large.tar")
        with built(component, place) as source:
            source.plan(1)
        asked = Counter(name for name, _ in server.asked)
        assert asked["small.tar"] <= 8, "1 MB in pieces that double"
        assert asked["large.tar"] <= 10, "one for each jump"
        server.asked.clear()
        with built(component, place) as source:
            source.plan(1)
        assert sorted(server.asked) == [("large.tar", "bytes=0-511"), ("small.tar", "bytes=0-511")]
    assert small.stat().st_size > 2**19
    assert large.stat().st_size > 18 * 2**20


def test_a_damaged_index_is_read_again(tmp_path: Path, place: Place) -> None:
    component = settings(tmp_path, write(tmp_path / "data", 2))
    before = drawn(component, place, 10)
    for path in (tmp_path / "cache").glob("*.index"):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    assert drawn(component, place, 10) == before


def dali(folder: Path) -> None:
    """What wds2idx writes."""
    for shard in folder.glob("*.tar"):
        with tarfile.open(shard) as tar:
            rows: dict[str, list[str]] = {}
            for info in tar:
                stem, _, suffix = info.name.partition(".")
                rows.setdefault(stem, []).append(f"{suffix} {info.offset_data} {info.size} {info.name}")
        shard.with_suffix(".idx").write_text(f"v1.2 {len(rows)}\n" + "".join(" ".join(r) + "\n" for r in rows.values()))


@pytest.mark.parametrize("fits", [True, False])
def test_an_index_beside_the_shard_is_used_if_it_fits(fits: bool, tmp_path: Path, place: Place) -> None:
    """One of another shard is told and not used."""
    folder = write(tmp_path / "data", 2, npy=lambda n: bytes(2**17))
    plain = [key for key, *_ in drawn(settings(tmp_path, folder, index="read"), place, 10)]
    dali(folder)
    if not fits:
        write(folder, 2, npy=lambda n: bytes(2**17 + 512))
    server = Server(folder)
    with server.running() as url:
        component = settings(tmp_path, f"{url}/s-{{000..001}}.tar", captions="require")
        with built(component, evolve(place, folder=tmp_path)) as source:
            source.plan(1)
            assert source.report() == ({} if fits else {"index beside it is of another shard": 2})
            read = sum(
                int(r.split("-")[1]) - int(r.split("=")[1].split("-")[0]) + 1 for n, r in server.asked if "idx" not in n
            )
            assert (read < 10_000) == fits
            assert [s.key for s in source.draw(9)] == plain[1:]


def test_names_that_are_no_text_survive_the_disk(tmp_path: Path) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", errors="surrogateescape") as tar:
        info = tarfile.TarInfo("caf\udce9.png")
        tar.addfile(info)
    content = file.getvalue()
    found = indexes.read(lambda start, length: content[start : start + length], len(content))
    again = indexes.unpacked(indexes.packed(found, "x", "1"), "x", "1")
    assert again is not None
    assert again.keys == found.keys == ["/caf\udce9"]
    assert indexes.unpacked(indexes.packed(found, "x", "1"), "x", "2") is None


# --- order ---


def test_the_first_batch_needs_one_window_of_shards_however_many_there_are(tmp_path: Path, place: Place) -> None:
    folder = write(tmp_path / "data", 12, samples=2)
    server = Server(folder)
    with server.running() as url, built(settings(tmp_path, f"{url}/s-{{000..011}}.tar"), place) as source:
        source.draw(1)
        assert len({name for name, _ in server.asked if name.endswith("tar")}) <= 4  # and the next window's, ahead


def test_ranks_and_a_resume_keep_to_what_the_first_one_found(tmp_path: Path, place: Place) -> None:
    """A shard that only one of them could not reach is drawn by none, and told by both."""
    folder = write(tmp_path / "data", 6)
    server = Server(folder)
    with server.running() as url:
        component = settings(tmp_path, f"{url}/s-{{000..005}}.tar", max_lost=0.5)
        server.missing = {"s-002.tar"}
        with built(component, place) as one:
            tickets = one.plan(25)
            state = one.state_dict()
            assert one.report() == {"shard: is not there": 1}
        server.missing = set()
        other = evolve(component, cache=str(tmp_path / "elsewhere"))
        with built(other, place) as two:
            assert two.plan(25) == tickets
            assert two.report() == {"shard: is not there": 1}
        with built(other, place) as resumed:
            resumed.load_state_dict(state)
            following = resumed.plan(5)
            resumed.load_state_dict({**state, "epoch": 0, "window": 0, "index": 0})
            assert resumed.plan(30) == tickets + following
    assert {shard for epoch, shard, *_ in tickets if epoch == 0} == {0, 1, 3, 4, 5}
    assert 2 in {shard for epoch, shard, *_ in following + tickets if epoch == 1} | {2}


def test_a_changed_shard_is_refused_or_the_next_epoch_begins(tmp_path: Path, place: Place) -> None:
    folder = write(tmp_path / "data", 2)
    component = settings(tmp_path, folder)
    with built(component, place) as source:
        source.plan(3)
        state = source.state_dict()
    write(folder, 2, samples=SAMPLES - 1)
    with built(component, place) as source:
        source.load_state_dict(state)
        with pytest.raises(QiError, match="the shard changed since this epoch's order was made"):
            source.plan(1)
    with built(evolve(component, changed="next-epoch"), place) as source:
        source.load_state_dict(state)
        assert {ticket[0] for ticket in source.plan(2 * (SAMPLES - 1))} == {1}
    with (
        built(settings(tmp_path, folder / "s-000.tar"), place) as source,
        pytest.raises(QiError, match="not the shards"),
    ):
        source.load_state_dict(state)


# --- what goes wrong ---


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
    assert time.monotonic() - begun < 10


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


def test_shards_that_were_used_longest_ago_make_room(tmp_path: Path, place: Place) -> None:
    folder = write(tmp_path / "data", 6)
    size = (folder / "s-000.tar").stat().st_size
    with Server(folder).running() as url:
        component = settings(tmp_path, f"{url}/s-{{000..005}}.tar", keep="shards", keep_gib=4.5 * size / 2**30)
        found = drawn(component, place, 30)
        assert sum(path.stat().st_size for path in (tmp_path / "cache").glob("*.tar")) <= 4.5 * size
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
