"""Files made to hurt: each is skipped with its reason or comes out as any other picture, and memory stays bounded.

What could take memory happens in a process of its own, whose memory is measured from its start to its end.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from qi_core import Place
from qi_core.blob import Blob, opened
from qi_core.pixels import Unusable, decode
from qi_plugins.source_images.images import Images

GIGABYTE = 2**30
DEADLINE = 120
"""Seconds; a pipe that is waited for would take for ever."""
MAKER = """
import json, resource, sys, warnings
from collections import Counter
from pathlib import Path
import torch
from qi_core import Place
from qi_plugins.source_images.images import Images

warnings.simplefilter("error")

def peak():
    status = Path("/proc/self/status")
    if status.exists():  # what getrusage tells begins with the memory of the parent
        return int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

told = json.loads(sys.argv[1])
place = Place(device=torch.device("cpu"), dtype=torch.float32, seed=0, folder=Path(told.pop("run")))
count = told.pop("count")
source = Images(**told).build(place, 16)
samples = {}
for _ in range(-(-count // 4)):
    for sample in source.draw(4):
        assert sample.image.dtype is torch.uint8 and not any(side % 16 for side in sample.image.shape[1:])
        mean = [round(float(channel)) for channel in sample.image.float().mean(dim=(1, 2))]
        samples[sample.key] = {"size": list(sample.image.shape), "mean": mean, "prompt": sample.prompt}
listed = place.folder / "skipped.jsonl"
skipped = [json.loads(line) for line in listed.read_text().splitlines()] if listed.exists() else []
print(json.dumps({
    "samples": samples,
    "skipped": {each["key"]: each["reason"] for each in skipped},
    "memory": peak(),
}))
"""


def fed(run: Path, path: Path, count: int, **settings: Any) -> dict[str, Any]:
    """What a source makes of it, in a process of its own."""
    run.mkdir()
    told = {"run": str(run), "path": str(path), "count": count, "side": 64, **settings}
    command = [sys.executable, "-c", MAKER, json.dumps(told)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def chunk(name: bytes, data: bytes) -> bytes:
    """Of a PNG (its specification, section 5.3)."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, *extra: bytes, colour: int = 0) -> bytes:
    """A PNG of zeros, however large: what is all alike packs into nothing. Of one bit a pixel, or with ``colour`` = 6
    of four bytes."""
    packer = zlib.compressobj(9)
    row = bytes(1 + (4 * width if colour else (width + 7) // 8))
    packed = [packer.compress(row) for _ in range(height)]
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8 if colour else 1, colour, 0, 0, 0))
    body = chunk(b"IDAT", b"".join(packed) + packer.flush())
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + body + chunk(b"IEND", b"")


def text_bomb() -> bytes:
    """A comment of 50 MB, in 50 kB."""
    return chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(50 * 10**6)))


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def noise(side: int = 96) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8))


def frames(kind: str, **options: Any) -> bytes:
    first, *others = (Image.new("RGB", (96, 96), colour) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255)))
    return saved(first, kind, save_all=True, append_images=others, **options)


def huge_exif() -> bytes:
    exif = Image.Exif()
    exif[274] = 1
    exif[37510] = b"x" * 60_000  # UserComment: a segment holds 64 KiB
    jpeg = saved(Image.new("RGB", (96, 96), (0, 0, 255)), "JPEG", exif=exif)
    comment = b"\xff\xfe" + struct.pack(">H", 65_535) + b"y" * 65_533
    return jpeg[:2] + comment * 200 + jpeg[2:]  # 13 MB more


def clear() -> Image.Image:
    image = Image.new("P", (96, 96), 0)
    image.putpalette([0, 0, 0, 255, 0, 0])
    image.info["transparency"] = 0
    return image


RED = Image.new("RGB", (96, 96), (255, 0, 0))
BOMB = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, 8, 6, 0, 0, 0))

POISON: dict[str, tuple[Callable[[], bytes], str]] = {
    "bomb.png": (lambda: png(30_000, 30_000), "too many pixels"),  # 900 megapixels in 109 kB
    "largest.png": (lambda: BOMB, "not a picture"),
    "text-bomb.png": (lambda: png(96, 96, text_bomb()), "cannot be decoded"),
    "strip.png": (lambda: png(50_000, 2), "too small"),
    "pixel.png": (lambda: png(1, 1), "too small"),
    "banner.png": (lambda: png(4_800, 96), "crop would cut off too much"),
    "cut.jpg": (lambda: saved(noise(), "JPEG")[:-900], "cannot be decoded"),
    "cut.png": (lambda: saved(noise(), "PNG")[:-900], "cannot be decoded"),
    "header.png": (lambda: saved(noise(), "PNG")[:20], "cannot be decoded"),
    "empty.png": (lambda: b"", "not a picture"),
    "text.png": (lambda: b"<html>not here</html>", "not a picture"),
    "vector.png": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 96 96\nshowpage\n", "not a picture"),
    "float.tif": (lambda: saved(Image.new("F", (96, 96)), "TIFF"), "pixels without a known range"),
}
"""What is skipped, and why."""

HARMLESS: dict[str, tuple[Callable[[], bytes], tuple[int, int, int]]] = {
    "cmyk.jpg": (lambda: saved(Image.new("CMYK", (96, 96), (0, 0, 0, 0)), "JPEG"), (255, 255, 255)),
    "sixteen.png": (lambda: saved(Image.new("I;16", (96, 96), 32_896), "PNG"), (128, 128, 128)),
    "clear.png": (lambda: saved(clear(), "PNG", transparency=0), (255, 255, 255)),
    "clear.gif": (lambda: saved(clear(), "GIF", transparency=0), (255, 255, 255)),
    "moves.gif": (lambda: frames("GIF"), (255, 0, 0)),
    "moves.webp": (lambda: frames("WEBP", lossless=True), (255, 0, 0)),
    "many.jpg": (lambda: frames("MPO", quality=95), (254, 0, 0)),
    "exif.jpg": (huge_exif, (0, 0, 254)),
    "name.jpg": (lambda: saved(RED, "PNG"), (255, 0, 0)),  # a PNG that calls itself a JPEG
}
"""What comes out as any other picture, and the colour that it has then."""


def put(folder: Path, files: dict[str, bytes]) -> Path:
    """Them, each with a caption."""
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
        (folder / name).with_suffix(".txt").write_text("something")
    return folder


@pytest.mark.slow
def test_every_poisoned_file_is_skipped_with_its_reason_or_made_harmless_and_memory_is_bounded(tmp_path: Path) -> None:
    """Among them some of 48 megapixels with transparency, 0.4 GB each while they are decoded, which must not add up in
    eight threads."""
    bomb = POISON["bomb.png"][0]()
    assert 100_000 < len(bomb) < 120_000, "it is what it is said to be"
    folder = put(tmp_path / "data", {name: make() for name, (make, _) in (POISON | HARMLESS).items()})
    large = [f"large{number}.png" for number in range(4)]
    put(tmp_path / "more", dict.fromkeys(large, png(8_000, 6_000, colour=6))).rename(folder / "more")
    late = ("cut.jpg", "cut.png", "float.tif")  # their headers are good; of the others, nothing is ever decoded
    found = fed(tmp_path / "run", folder, len((*HARMLESS, *large, *late)), workers=8)
    assert found["skipped"] == {name: reason for name, (_, reason) in POISON.items()}
    means = {key: tuple(sample["mean"]) for key, sample in found["samples"].items()}
    wanted = {name: colour for name, (_, colour) in HARMLESS.items()}
    assert means == wanted | {f"more/{name}": (255, 255, 255) for name in large}
    assert found["memory"] < 1.2 * GIGABYTE


def test_odd_shapes_that_are_asked_for_come_out_in_a_bucket(tmp_path: Path) -> None:
    """A strip, a single pixel and a banner, as pictures and as references, where all may be enlarged and cut."""
    names = ("strip.png", "pixel.png", "banner.png")
    folder = put(tmp_path / "data", {name: POISON[name][0]() for name in names})
    lines = [{"image": name, "caption": name, "references": list(names)} for name in names]
    (folder / "edits.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    drawn = list(built(tmp_path, folder / "edits.jsonl", upscale="allow", max_cropped=1.0).draw(6))
    assert len({sample.key for sample in drawn}) == 3
    for sample in drawn:
        for image in (sample.image, *sample.references):
            assert not any(side % 16 for side in image.shape[1:])
            assert image[0].numel() <= 96 * 96


def test_what_is_no_file_is_skipped_and_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = put(tmp_path / "data", {name: saved(RED, "PNG") for name in ("good.png", "locked.png", "pipe.png")})
    (folder / "pipe.png").unlink()
    os.mkfifo(folder / "pipe.png")
    with socket.socket(socket.AF_UNIX) as open_socket:
        monkeypatch.chdir(folder)  # the path of a socket must be short
        open_socket.bind("socket.png")
    (folder / "nowhere.png").symlink_to("gone.png")
    (folder / "circle.png").symlink_to("circle.png")
    (folder / "folder.png").mkdir()
    (folder / "zero.png").symlink_to("/dev/zero")
    os.chmod(folder / "locked.png", 0)
    for name in ("socket", "nowhere", "circle", "zero"):
        (folder / f"{name}.txt").write_text("a caption does not help")
    for checked in ("start", "drawn"):
        source = built(tmp_path, folder, checked=checked)
        assert len(list(source.draw(8))) == 8
        assert source.report() == {"cannot be read": 5 + (os.geteuid() > 0)}, "root may read everything"


def test_names_that_are_none_are_told(tmp_path: Path) -> None:
    folder = put(tmp_path / "data", {"good.png": saved(RED, "PNG")})
    (folder / os.fsdecode(b"\xff\xfe.png")).write_bytes(saved(RED, "PNG"))
    (folder / os.fsdecode(b"\xff\xfe.txt")).write_text("bytes that are no text")
    lines = [{"image": name, "caption": "something"} for name in ("good.png", "a\0b.png", "x" * 5000 + ".png", "")]
    (folder / "all.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    source = built(tmp_path, folder / "all.jsonl")
    assert {sample.key for sample in source.draw(4)} == {"good.png:1"}
    assert source.report() == {"cannot be read": 3}
    assert len({sample.key for sample in built(tmp_path, folder).draw(2)}) == 2


@pytest.mark.parametrize(
    ("caption", "told"),
    [
        (b"", "caption missing"),
        (b" \n\t ", "caption missing"),
        (b"\x00\x01\x1b\x7f", "caption missing"),
        (b"\xef\xbb\xbf", "caption missing"),
        (b"a \xff cat", "caption is not UTF-8"),
        (b"word " * 10_000, "caption too long"),
    ],
)
def test_captions_that_are_none_are_told(tmp_path: Path, caption: bytes, told: str) -> None:
    folder = put(tmp_path / "data", {"good.png": saved(RED, "PNG"), "odd.png": saved(RED, "PNG")})
    (folder / "odd.txt").write_bytes(caption)
    source = built(tmp_path, folder)
    assert {sample.key for sample in source.draw(4)} == {"good.png"}
    assert source.report() == {told: 1}


def test_characters_that_control_a_terminal_are_left_out_of_captions(tmp_path: Path) -> None:
    folder = put(tmp_path / "data", {"odd.png": saved(RED, "PNG")})
    (folder / "odd.txt").write_bytes(b"a \x1b[31mred\x1b[0m\x00 cat\r\n\tand a dog\x7f")
    (sample,) = built(tmp_path, folder).draw(1)
    assert sample.prompt == "a [31mred[0m cat\r\n\tand a dog"


def test_flipped_bits_make_a_sample_or_a_reason_and_nothing_else(tmp_path: Path) -> None:
    """What is flipped in the pixels of a JPEG cannot be seen: it comes out as another picture."""
    rng, good = (
        np.random.default_rng(0),
        {kind: saved(noise(), kind) for kind in ("JPEG", "PNG", "WEBP", "GIF", "TIFF")},
    )
    files = {}
    for number in range(200):
        kind = list(good)[number % len(good)]
        flipped = bytearray(good[kind])
        for at in rng.integers(0, len(flipped) if number % 2 else 200, 1 + number % 7):
            flipped[at] ^= 1 << int(rng.integers(8))
        files[f"{number}.{kind.lower()}"] = bytes(flipped)
    folder = put(tmp_path / "data", files)
    source = built(tmp_path, folder, upscale="allow", max_cropped=1.0)
    drawn = {sample.key for sample in source.draw(400)}
    known = {"not a picture", "cannot be decoded", "too many pixels", "pixels without a known range"}
    assert source.report().keys() <= known
    assert len(drawn) + sum(source.report().values()) == 200


def test_a_file_that_is_written_to_all_the_time_gives_no_half_pictures(tmp_path: Path) -> None:
    folder = put(tmp_path / "data", {f"{number}.png": saved(RED, "PNG", compress_level=0) for number in range(8)})
    for file in folder.iterdir():
        os.utime(file, ns=(1, 1))  # the clock of a file system ticks slowly: what follows has to be seen as later
    blue = saved(Image.new("RGB", (96, 96), (0, 0, 255)), "PNG", compress_level=0)
    source, stop = built(tmp_path, folder), threading.Event()

    def write() -> None:
        while not stop.is_set():
            for number in range(7):
                with (folder / f"{number}.png").open("r+b") as file:
                    file.write(blue[: len(blue) // 2])
                    file.flush()
                    file.write(blue[len(blue) // 2 :])

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(50):
            for sample in source.draw(4):
                assert sample.image.float().mean(dim=(1, 2)).tolist() == [255.0, 0.0, 0.0]
    finally:
        stop.set()
        writer.join()
    assert source.report() == {"changed since it was found": 7}


def test_half_a_picture_is_told_as_what_it_is(tmp_path: Path) -> None:
    """It can't be decoded because somebody was writing it, and that is what is told."""
    file = put(tmp_path / "data", {"torn.png": saved(RED, "PNG", compress_level=0)}) / "torn.png"
    found, _ = Blob(str(file)).stamped()

    def overtaken() -> None:
        with opened(found, 2**20, 2**20) as (image, _):
            with file.open("r+b") as writer:
                writer.seek(file.stat().st_size // 2)
                writer.write(b"half of another")
            os.utime(file, ns=(1, 1))
            decode(image, 1.0, (0, 0, 0))

    with pytest.raises(Unusable) as told:
        overtaken()
    assert told.value.reason == "changed since it was found"


def test_a_file_that_is_written_to_between_its_header_and_its_pixels_is_not_used(tmp_path: Path) -> None:
    path = put(tmp_path / "data", {"a.png": saved(RED, "PNG")}) / "a.png"
    found, _ = Blob(str(path)).stamped()
    with pytest.raises(Unusable, match="while it was being read"), opened(found, 2**20, 2**20):
        path.write_bytes(saved(noise(), "PNG"))


def built(run: Path, path: Path, **settings: Any) -> Any:
    place = Place(device=torch.device("cpu"), dtype=torch.float32, seed=0, folder=run)
    return Images(path=str(path), side=64, **settings).build(place, 16)
