"""Source ``webdataset``: shards that the webdataset library wrote, on disk and behind a real HTTP server."""

from __future__ import annotations

import io
import json
import re
import shutil
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from attrs import evolve
from PIL import Image
from webdataset.tariterators import group_by_keys, tar_file_expander

from qi_core import Place, QiError, drawing, material
from qi_core.fitting import CaptionKey
from qi_core.pixels import Unusable
from qi_core.testing import check_component, check_source
from qi_plugins.source_images.images import Images
from qi_plugins.source_webdataset import index as indexes
from qi_plugins.source_webdataset.component import WebDataset
from support.shards import SAMPLES, Server, built, drawn, pack, png, settings, write


@pytest.fixture
def place(tmp_path: Path) -> Place:
    run = tmp_path / "run"
    run.mkdir()
    return Place(device=torch.device("cpu"), dtype=torch.float32, seed=7, folder=run)


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


@pytest.mark.parametrize("kind", [WebDataset, Images])
def test_a_json_may_hold_several_captions_of_which_each_epoch_takes_one(
    kind: type, tmp_path: Path, place: Place
) -> None:
    """By their shares; beside a .txt too, which stands where there is none of them."""
    told = json.dumps({"raw": "r", "fused": "f"}).encode()
    members = [(f"{n}.{suffix}", body) for n in range(40) for suffix, body in (("png", png(n)), ("json", told))]
    shard = pack(tmp_path / "a.tar", [*members, ("x.png", png(0)), ("x.txt", b"t"), ("x.json", b"{}")])
    keys = (CaptionKey(key="raw"), CaptionKey(key="fused", share=3))
    if kind is WebDataset:
        component: Any = settings(tmp_path, shard, caption_keys=keys)
    else:
        component = Images(path=str(shard), side=16, caption_keys=keys)
    source = component.build(place, 8)
    first, second = ({s.key: s.prompt for s in source.draw(41)} for _ in range(2))
    prompts = Counter([*first.values(), *second.values()])
    assert prompts["t"] == 2
    assert 8 <= prompts["r"] <= 32, "a quarter of 80"
    assert first != second


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


@pytest.mark.parametrize("remote", [True, False])
def test_a_shard_that_changes_under_a_run_gives_no_wrong_bytes(remote: bool, tmp_path: Path, place: Place) -> None:
    folder = write(tmp_path / "data", 2)
    with Server(folder).running() as url:
        component = settings(tmp_path, f"{url}/s-{{000..001}}.tar" if remote else folder)
        with built(component, place) as source:
            tickets = source.plan(10)
            write(folder, 2, npy=lambda n: bytes(100))
            for ticket in tickets:
                with pytest.raises(Unusable, match="changed since it was looked into"):
                    source.make(ticket)


# --- weights ---


def test_samples_come_as_often_as_they_weigh_and_who_weighs_nothing_never(tmp_path: Path, place: Place) -> None:
    """In every epoch, in windows of two shards that are others each time; resumed anywhere."""
    data = write(tmp_path / "data", 4)
    wanted = {key: number % 4 * 0.5 for number, key in enumerate(sorted(by_library(data)))}
    weights = tmp_path / "weights.jsonl"
    weights.write_text("".join(json.dumps({"key": key, "weight": own}) + "\n" for key, own in wanted.items()))
    component = settings(tmp_path, data, window=2, weights_file=str(weights))
    check_source(component, count=20)
    with built(component, place) as source:
        tickets = source.plan(4 * 15)
        found = Counter(source.called(ticket) for ticket in tickets)
        assert found == {key: 4 * own for key, own in wanted.items() if own}
        assert len(set(tickets)) == len(tickets), "each turn has a crop of its own"
        for ticket in tickets[:5]:
            made = drawing.made(source, source.other(ticket, 1))
            assert wanted[made.item.key], "none of weight 0 stands in"
    weights.write_text(weights.read_text().replace("1.5", "0"))
    with built(component, place) as other, pytest.raises(QiError, match="weights changed since the checkpoint"):
        other.load_state_dict(source.state_dict())
    weights.write_text("".join(json.dumps({"key": key, "weight": 0}) + "\n" for key in wanted))
    with built(component, place) as source, pytest.raises(QiError, match="all samples of all shards weigh 0"):
        source.plan(1)


def test_weights_of_other_samples_are_told(tmp_path: Path, place: Place, caplog: pytest.LogCaptureFixture) -> None:
    """Of more shards than one window, once: they may be of samples that come later."""
    data, weights = write(tmp_path / "data", 4), tmp_path / "weights.jsonl"
    weights.write_text('{"key": "photos/a.png", "weight": 2}\n')
    component = settings(tmp_path, data, window=4, weights_file=str(weights))
    told = r"none of its 1 keys \(such as 'photos/a.png'\) is one of those in .* \(such as 's-00\d.tar/n/00\d\d'\)"
    with built(component, place) as source, pytest.raises(QiError, match=told):
        source.plan(1)
    with built(evolve(component, window=2), place) as source:
        source.plan(4 * SAMPLES)
    assert len(caplog.messages) == 1
    assert re.search(told, caplog.messages[0])


# --- elsewhere ---


def test_a_producer_that_has_other_shards_is_refused(tmp_path: Path, place: Place) -> None:
    """By the same pattern; where they lie says nothing."""
    one, two = write(tmp_path / "one", 2), write(tmp_path / "two", 2)
    with built(settings(tmp_path, one), place) as trainer, built(settings(tmp_path, two), place) as producer:
        material.refuse_others(material.told(trainer), producer)
    shutil.copy(two / "s-001.tar", two / "s-002.tar")
    with built(settings(tmp_path, two), place) as producer, pytest.raises(QiError, match="version skew: shards: the"):
        material.refuse_others(material.told(trainer), producer)
