"""Tar shards: read as the webdataset library reads them, by seeking."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from webdataset.tariterators import group_by_keys, tar_file_expander

from qi_core import Place, QiError
from qi_plugins.source_images.images import Images


@pytest.fixture
def place(tmp_path: Path) -> Place:
    run = tmp_path / "run"
    run.mkdir()
    return Place(device=torch.device("cpu"), dtype=torch.float32, seed=7, folder=run)


def picture(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def pack(path: Path, members: list[tuple[str, bytes]], format: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=format) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def drawn(path: str, place: Place, count: int) -> dict[str, tuple[str, bytes]]:
    source = Images(path=path, side=32).build(place, 16)
    return {s.key: (s.prompt, s.image.permute(1, 2, 0).numpy().tobytes()) for s in source.draw(count)}


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_shards_give_what_webdataset_gives(tmp_path: Path, place: Place, format: int) -> None:
    """Keys up to the first dot, long names, folders, upper case, other members between, metadata left out."""
    long = "/".join(["folder"] * 20) if format != tarfile.USTAR_FORMAT else "folder"
    for number in range(3):
        members: list[tuple[str, bytes]] = [("__index__", b"meta"), ("__meta__/x.png", picture(0))]
        for i in range(4):
            name = f"{long}/{number}{i}"
            members += [
                (f"{name}.cls", b"3"),
                (f"{name}.PNG", picture(10 * number + i)),
                (f"{name}.seg.npy", b"x" * 700),
                (f"{name}.txt", f"caption {number} {i} 字".encode()),
            ]
        pack(tmp_path / f"s-{number:03}.tar", [*members, ("README", b"no dot"), (".hidden.png", b"x")], format)

    wanted = {}
    for shard in sorted(tmp_path.glob("s-*.tar")):
        with shard.open("rb") as stream:
            for sample in group_by_keys(tar_file_expander([{"url": str(shard), "stream": stream}])):
                pixels = np.asarray(Image.open(io.BytesIO(sample["png"]))).tobytes()
                wanted[f"{shard.name}/{sample['__key__']}"] = (sample["txt"].decode(), pixels)
    assert len(wanted) == 12
    assert drawn(str(tmp_path / "s-*.tar"), place, 12) == wanted


def test_captions_in_json_and_references(tmp_path: Path, place: Place) -> None:
    path = pack(
        tmp_path / "a.tar",
        [
            ("1.png", picture(1)),
            ("1.json", json.dumps({"prompt": "from json"}).encode()),
            ("1.ref1.png", picture(3)),
            ("1.ref0.png", picture(2)),
        ],
    )
    (sample,) = Images(path=str(path), side=32).build(place, 16).draw(1)
    assert sample.prompt == "from json"
    wanted = [np.asarray(Image.open(io.BytesIO(picture(seed)))).transpose(2, 0, 1) for seed in (2, 3)]
    assert all(np.array_equal(a, b) for a, b in zip(sample.references, wanted, strict=True))


def test_members_that_make_no_sample_are_counted(tmp_path: Path, place: Place) -> None:
    pack(
        tmp_path / "a.tar",
        [
            ("../../etc/1.png", picture(1)),  # leads nowhere: nothing is unpacked
            ("../../etc/1.txt", b"good"),
            ("2.txt", b"no picture"),
            ("3.png", picture(3)),
            ("4.png", picture(4)),
            ("4.edited.png", picture(5)),
            ("4.txt", b"which of the two?"),
            ("5.png", picture(5)),
            ("5.png", picture(6)),
            ("5.txt", b"twice"),
            ("6.png", picture(6)),
            ("6.json", b"{"),
            ("7.png", picture(7)),
            ("7.ref1.png", picture(1)),
            ("7.ref01.png", picture(2)),
            ("7.txt", b"which of the two?"),
            ("8.png", picture(8)),
            (f"8.ref{'9' * 5000}.png", picture(1)),
            ("8.txt", b"no number of a reference"),
        ],
    )
    source = Images(path=str(tmp_path / "a.tar"), side=32).build(place, 16)
    assert [s.key for s in source.draw(1)] == ["a.tar/../../etc/1"]
    assert source.report() == {
        "no picture under this name": 1,
        "caption missing": 1,
        "several pictures under one name": 2,
        "two references of one number": 1,
        "two members of one name": 1,
        "caption is no text": 1,
    }


def test_a_shard_cut_off_gives_what_is_whole(tmp_path: Path, place: Place) -> None:
    members = [(f"{i}.{suffix}", body) for i in range(3) for suffix, body in (("png", picture(i)), ("txt", b"good"))]
    path = pack(tmp_path / "a.tar", members)
    path.write_bytes(path.read_bytes()[: 2 * (512 + 3584 + 1024) + 1000])
    source = Images(path=str(path), side=32).build(place, 16)
    assert {s.key for s in source.draw(4)} == {"a.tar/0", "a.tar/1"}
    assert source.report()["broken tar shard"] >= 1


@pytest.mark.parametrize(("name", "wanted"), [("a.tar", "broken tar shard"), ("a.tar.gz", "unpack it to .tar first")])
def test_a_compressed_shard_is_told(tmp_path: Path, place: Place, name: str, wanted: str) -> None:
    with tarfile.open(tmp_path / name, "w:gz") as tar:
        info = tarfile.TarInfo("1.png")
        info.size = 3
        tar.addfile(info, io.BytesIO(b"abc"))
    with pytest.raises(QiError, match=wanted):
        Images(path=str(tmp_path / name), side=32).build(place, 16)
