"""The source ``images``: what comes out of which file, what is skipped and said, and where a resume goes on."""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from attrs import asdict
from PIL import Image

from qi_core import Place, QiError, Sample
from qi_core.drawing import made
from qi_core.pixels import Unusable
from qi_plugins.source_images.images import Images

RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    run = tmp_path / "run"
    run.mkdir()
    return Place(device=torch.device("cpu"), dtype=torch.float32, seed=7, folder=run)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


def save(image: Any, path: Path, caption: str | None = "a picture", **how: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **how)
    if caption is not None:
        path.with_suffix(".txt").write_text(caption)


def plain(width: int, height: int, colour: tuple[int, ...] = RED, mode: str = "RGB") -> Any:
    return Image.new(mode, (width, height), colour)


def only(data: Path, place: Place, **settings: Any) -> Sample:
    """The one sample of a folder."""
    source = Images(path=str(data), **{"side": 32, **settings}).build(place, 16)
    (sample,) = source.draw(1)
    return sample


def skips(data: Path, place: Place, **settings: Any) -> dict[str, int]:
    """What is skipped beside one good sample."""
    save(plain(32, 32), data / "zz_good.png")
    source = Images(path=str(data), **{"side": 32, **settings}).build(place, 16)
    assert [sample.key for sample in source.draw(3)] == ["zz_good.png"] * 3
    return source.report()


def centre(sample: Sample) -> tuple[int, ...]:
    _, height, width = sample.image.shape
    return tuple(sample.image[:, height // 2, width // 2].tolist())


def bomb(width: int, height: int) -> bytes:
    """A PNG of a hundred bytes that claims to be huge."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def test_a_sample_is_a_picture_and_its_caption(data: Path, place: Place) -> None:
    save(plain(40, 40, BLUE), data / "sub" / "a.png", " a blue square\n")
    sample = only(data, place)
    assert (sample.key, sample.prompt) == ("sub/a.png", "a blue square")
    assert sample.image.shape == (3, 32, 32)
    assert sample.image.dtype == torch.uint8
    assert centre(sample) == BLUE


@pytest.mark.parametrize(("width", "height"), [(90, 30), (30, 90), (64, 36), (36, 64), (40, 30), (30, 40), (32, 32)])
def test_height_and_width_are_never_swapped(data: Path, place: Place, width: int, height: int) -> None:
    """ai-toolkit PR#707. Left is red, top is dark, and both stay where they are."""
    pixels = np.full((height, width, 3), 255, np.uint8)
    pixels[:, : width // 2] = RED
    pixels[: height // 2] //= 2
    save(Image.fromarray(pixels), data / "a.png")
    image = only(data, place, side=64, upscale="allow").image
    _, tall, wide = image.shape
    assert (tall > wide, tall < wide) == (height > width, height < width)
    assert image[:, -2, 1].tolist() == [255, 0, 0]
    assert image[:, 1, -2].tolist() == [127, 127, 127]


def test_a_picture_is_cropped_never_squashed(data: Path, place: Place) -> None:
    """A circle stays one: 74 x 50 with a circle of 40 becomes 32 x 32 with a circle of 25.6."""
    rows, columns = np.mgrid[:50, :74]
    inside = (rows - 24.5) ** 2 + (columns - 36.5) ** 2 < 20**2
    save(Image.fromarray(np.where(inside, 0, 255).astype(np.uint8)), data / "a.png")
    dark = only(data, place, ratios=("1:1",)).image[0] < 128
    assert dark.any(0).sum() == dark.any(1).sum() == 26


def test_exif_rotation(data: Path, place: Place) -> None:
    """Orientation 6: stored lying, 96 x 48 with red on the left; seen standing, with red on top."""
    stored = plain(96, 48, BLUE)
    stored.paste(RED, (0, 0, 48, 48))
    exif = Image.Exif()
    exif[274] = 6
    save(stored, data / "a.jpg", exif=exif, quality=95, subsampling=0)
    image = only(data, place, side=32).image.int()
    assert image.shape[1] > image.shape[2]
    assert image[0, 2].float().mean() > 240  # red above
    assert image[2, -3].float().mean() > 240  # blue below


def half_clear(mode: str) -> Any:
    image = plain(32, 32, (255, 0, 0, 255), "RGBA")
    image.paste((0, 0, 0, 0), (0, 0, 16, 32))
    return image.convert(mode)


@pytest.mark.parametrize("background", [WHITE, (10, 20, 30)])
def test_alpha_lies_on_the_stated_colour(data: Path, place: Place, background: tuple[int, int, int]) -> None:
    save(half_clear("RGBA"), data / "a.png")
    image = only(data, place, background=background).image
    assert tuple(image[:, 16, 2].tolist()) == background
    assert tuple(image[:, 16, -3].tolist()) == RED


def test_palette_with_transparency(data: Path, place: Place) -> None:
    image = Image.new("P", (32, 32), 1)
    image.putpalette([0, 255, 0, 255, 0, 0])
    image.paste(0, (0, 0, 16, 32))
    save(image, data / "a.png", transparency=b"\x00\xff")
    image = only(data, place).image
    assert tuple(image[:, 16, 2].tolist()) == WHITE
    assert tuple(image[:, 16, -3].tolist()) == RED


def test_sixteen_bits_are_scaled(data: Path, place: Place) -> None:
    save(Image.fromarray(np.full((32, 32), 32896, np.uint16)), data / "a.png")
    assert centre(only(data, place)) == (128, 128, 128)


@pytest.mark.parametrize(
    ("image", "name", "colour"),
    [
        (plain(32, 32, (0, 255, 255, 0), "CMYK"), "a.jpg", RED),
        (Image.new("L", (32, 32), 77), "a.png", (77, 77, 77)),
        (Image.new("1", (32, 32), 1), "a.png", WHITE),
        (plain(32, 32, (255, 0, 0), "RGB"), "a.gif", RED),
        (plain(32, 32, (200, 255), "LA"), "a.png", (200, 200, 200)),
    ],
)
def test_other_kinds_of_pixels(data: Path, place: Place, image: Any, name: str, colour: tuple[int, ...]) -> None:
    save(image, data / name)
    assert np.abs(np.subtract(centre(only(data, place)), colour)).max() <= 2


def test_what_a_file_is_its_bytes_tell(data: Path, place: Place) -> None:
    save(plain(32, 32), data / "a.png", format="JPEG", quality=95)
    assert np.abs(np.subtract(centre(only(data, place)), RED)).max() <= 2


def test_a_big_jpeg_decoded_small_looks_like_one_decoded_whole(data: Path, place: Place) -> None:
    ramp = np.linspace(0, 255, 640).astype(np.uint8)
    save(Image.fromarray(np.tile(ramp, (480, 1))), data / "jpg" / "a.jpg", quality=98)
    save(Image.fromarray(np.tile(ramp, (480, 1))), data / "png" / "a.png")
    small, whole = only(data / "jpg", place).image, only(data / "png", place).image
    assert small.shape == whole.shape
    assert (small.int() - whole.int()).abs().max() <= 3


def test_unusable_files_are_skipped_counted_and_listed(data: Path, place: Place) -> None:
    save(plain(64, 64), data / "uncaptioned.png", None)
    save(plain(64, 64), data / "blank.png", " \n")
    save(plain(1, 1), data / "dot.png")
    save(plain(1600, 32), data / "strip.png")
    save(plain(64, 64), data / "wordy.png", "long " * 20)
    for name, content in {
        "text.png": b"hello",
        "bomb.png": bomb(20_000, 20_000),
        "warned.png": bomb(10_000, 9_000),
    }.items():
        (data / name).write_bytes(content)
        (data / name).with_suffix(".txt").write_text("a caption")
    save(plain(64, 64), data / "latin.png")
    (data / "latin.txt").write_bytes(b"caf\xe9")
    assert skips(data, place, max_caption=50) == {
        "caption missing": 2,
        "caption too long": 1,
        "caption is not UTF-8": 1,
        "too small": 1,
        "crop would cut off too much": 1,
        "not a picture": 1,
        "too many pixels": 2,
    }
    listed = [json.loads(line) for line in (place.folder / "skipped.jsonl").read_text().splitlines()]
    assert {(line["key"], line["reason"]) for line in listed} >= {
        ("dot.png", "too small"),
        ("bomb.png", "too many pixels"),
        ("text.png", "not a picture"),
    }
    skips(data, place, max_caption=50)
    assert len((place.folder / "skipped.jsonl").read_text().splitlines()) == len(listed) == 9  # not told twice


def test_a_bomb_is_refused_before_anything_of_it_is_decoded(
    data: Path, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    (data / "a.png").write_bytes(bomb(8001, 8000))  # Pillow itself would not even warn
    (data / "a.txt").write_text("a caption")
    from PIL import PngImagePlugin

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load_prepare", lambda *_: pytest.fail("decoded"))
    with pytest.raises(QiError, match="1 x too many pixels"):
        only(data, place)


def test_truncated_files_are_found_when_drawn_and_others_stand_in_for_them(data: Path, place: Place) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    for name in ("a.jpg", "b.png"):
        save(Image.fromarray(noise), data / name)
        (data / name).write_bytes((data / name).read_bytes()[:2000])
    assert skips(data, place) == {"cannot be decoded": 2}


def test_a_pipe_does_not_hold_the_run(data: Path, place: Place) -> None:
    import os

    os.mkfifo(data / "a.png")
    (data / "a.txt").write_text("a caption")
    assert skips(data, place) == {"cannot be read": 1}


def test_missing_captions_may_be_empty_ones(data: Path, place: Place) -> None:
    save(plain(32, 32), data / "a.png", None)
    assert only(data, place, captions="empty").prompt == ""


def test_extreme_pictures_where_everything_is_allowed(data: Path, place: Place) -> None:
    save(plain(1, 1), data / "dot.png")
    save(plain(1600, 32, BLUE), data / "strip.png")
    source = Images(path=str(data), side=32, upscale="allow", max_cropped=1.0).build(place, 16)
    shapes = {sample.key: tuple(sample.image.shape) for sample in source.draw(2)}
    assert shapes == {"dot.png": (3, 32, 32), "strip.png": (3, 16, 48)}


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        ({}, "no file at all"),
        ({"a.heic": b"", "b.HEIC": b"", "notes.txt": b""}, r"2 \.heic, 1 \.txt.*wanted \.png"),
        ({"a.tar": b""}, r"1 \.tar.*\*\.tar"),
        ({"a.png": b"", "b.png": b""}, "2 samples found, none usable: 2 x caption missing.*skipped.jsonl"),
    ],
)
def test_nothing_usable_says_what_was_found_and_what_was_wanted(
    data: Path, place: Place, files: dict[str, bytes], wanted: str
) -> None:
    """SimpleTuner#1338: two days lost on "no images were discovered"."""
    for name, content in files.items():
        (data / name).write_bytes(content)
    with pytest.raises(QiError, match=wanted) as error:
        only(data, place)
    assert str(data) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_path_that_leads_nowhere(data: Path, place: Place) -> None:
    with pytest.raises(QiError, match=r"nothing is there.*wanted a folder, a \.jsonl, a \.tar"):
        only(data / "nope", place)


def test_links_in_a_circle(data: Path, place: Place) -> None:
    save(plain(32, 32), data / "sub" / "a.png")
    (data / "sub" / "back").symlink_to(data)
    assert len(Images(path=str(data), side=32).build(place, 16).state_dict()["contents"]) == 32
    assert Images(path=str(data), side=32).build(place, 16).state_dict()["samples"] == 1


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("ratios", ("16x9",), "no ratio"),
        ("ratios", (), "no ratio given"),
        ("background", (0, 0, 300), "<= 255"),
        ("max_pixels", 10**9, "<= 89478485"),
        ("side", 0, "> 0"),
    ],
)
def test_settings_out_of_range(key: str, value: Any, wanted: str) -> None:
    with pytest.raises(ValueError, match=wanted):
        Images(path="x", **{key: value})


# --- JSONL ---------------------------------------------------------------------------------------------------------


def lines(path: Path, *records: Any) -> Path:
    path.write_bytes(b"\n".join(r if isinstance(r, bytes) else json.dumps(r).encode() for r in records))
    return path


def test_jsonl_with_references(data: Path, place: Place) -> None:
    """References keep their own shape at the area, H and W as they are, and are never enlarged."""
    save(plain(40, 40), data / "pictures" / "a.png", None)
    save(plain(192, 96, BLUE), data / "wide.png", None)
    save(plain(20, 36), data / "small.png", None)
    path = lines(
        data / "set.jsonl",
        {"image": "pictures/a.png", "caption": "make it red", "references": ["wide.png", "small.png"]},
    )
    sample = only(path, place, reference_side=64)
    assert (sample.key, sample.prompt) == ("pictures/a.png:1", "make it red")
    assert [tuple(r.shape) for r in sample.references] == [(3, 48, 96), (3, 32, 16)]
    assert sample.references[0][:, 5, 5].tolist() == list(BLUE)


def test_lines_of_a_jsonl_that_are_no_samples(data: Path, place: Place) -> None:
    save(plain(32, 32), data / "a.png", None)
    path = lines(
        data / "set.jsonl",
        {"file_name": "a.png", "text": "good"},
        b"",
        b"{",
        b"[" * 5000,
        [1],
        {"caption": "no image"},
        {"image": "a.png"},
        {"image": "a.png", "caption": 3},
        {"image": "a.png", "caption": "c" * 3000},
        {"image": "gone.png", "caption": "c"},
        {"image": "a\0.png", "caption": "c"},
        b'{"image": "\\ud800.png", "caption": "c"}',
        b'{"image": "a.png", "caption": "\\ud800"}',
        {"image": "a.png", "caption": "c", "references": "a.png"},
        {"image": "a.png", "caption": "c", "references": ["gone.png"]},
        {"image": "a.png", "prompt": "good, and the last line has no end"},
    )
    source = Images(path=str(path), side=32, max_line=2000 + 5000, max_caption=2000).build(place, 16)
    assert {sample.key for sample in source.draw(2)} == {"a.png:1", "a.png:16"}
    assert source.report() == {
        "line is no JSON object": 3,
        "line names no image": 1,
        "caption missing": 1,
        "caption is no text": 1,
        "caption too long": 1,
        "caption is not UTF-8": 1,
        "cannot be read": 3,
        "references are no list of paths": 1,
        "reference: cannot be read": 1,
    }


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_a_line_without_end_costs_no_memory(data: Path, place: Place, end: bytes) -> None:
    save(plain(32, 32), data / "a.png", None)
    good = b'{"image": "a.png", "text": "good"}\n'
    path = data / "set.jsonl"
    path.write_bytes(good + b"x" * 1000 + b"\n" + good + b"y" * 199 + end)
    source = Images(path=str(path), side=32, max_line=100).build(place, 16)
    assert {sample.key for sample in source.draw(2)} == {"a.png:1", "a.png:3"}
    assert source.report() == {"line too long": 2}


# --- order and position --------------------------------------------------------------------------------------------


@pytest.fixture
def ten(data: Path) -> Path:
    """Ten files of three shapes, three of them truncated."""
    rng = np.random.default_rng(1)
    for i in range(10):
        width, height = ((64, 64), (96, 48), (48, 96))[i % 3]
        save(Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)), data / f"{i}.png", f"number {i}")
        if i in (2, 5, 6):
            (data / f"{i}.png").write_bytes((data / f"{i}.png").read_bytes()[:3000])
    return data


def told(samples: Iterable[Sample]) -> list[tuple[str, bytes]]:
    return [(sample.key, sample.image.numpy().tobytes()) for sample in samples]


def build(path: Path, place: Place, **settings: Any) -> Any:
    return Images(path=str(path), side=32, crop="random", flip=True, max_cropped=0.9, **settings).build(place, 16)


BROKEN = {"2.png", "5.png", "6.png"}


def test_every_epoch_has_each_usable_sample_in_another_order_and_others_in_the_seats_of_the_broken(
    ten: Path, place: Place
) -> None:
    """The seats are those of an epoch without broken ones: nothing moves up."""
    source = build(ten, place)
    planned, epochs = [], []
    for _ in range(4):
        state = source.state_dict()
        planned.append([source.called(ticket) for ticket in source.plan(10)])
        source.load_state_dict(state)
        epochs.append([sample.key for sample in source.draw(10)])
    for wanted, found in zip(planned, epochs, strict=True):
        assert sorted(wanted) == [f"{i}.png" for i in range(10)]
        assert [key for key in found if key in BROKEN] == []
        assert {want for want, key in zip(wanted, found, strict=True) if want != key} == BROKEN
    assert len(set(map(tuple, epochs))) == 4
    assert source.report() == {"cannot be decoded": 3}


def test_who_stands_in_does_not_depend_on_what_is_known_to_be_broken(ten: Path, place: Place) -> None:
    """A producer that has just started gives what one gives that has seen it all; each broken one is told once."""
    seasoned = build(ten, place)
    tickets = seasoned.plan(30)
    first = told(made(seasoned, ticket).item for ticket in tickets)
    assert told(made(seasoned, ticket).item for ticket in tickets) == first
    assert told(made(build(ten, place), ticket).item for ticket in tickets) == first
    for position in (0, 11):
        source = build(ten, place)
        source.plan(position)
        source.draw(30)
    listed = [json.loads(line)["key"] for line in (place.folder / "skipped.jsonl").read_text().splitlines()]
    assert sorted(listed) == sorted(BROKEN)


def test_a_ticket_is_made_alike_by_several_threads_and_sources_at_once(ten: Path, place: Place) -> None:
    tickets = build(ten, place).plan(20)
    wanted = told(made(build(ten, place), ticket).item for ticket in tickets)
    sources = [build(ten, place) for _ in range(2)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda n: made(sources[n % 2], tickets[n // 2]).item, range(40)))
    assert told(found[::2]) == told(found[1::2]) == wanted


def test_planning_opens_no_file_and_what_broke_is_not_opened_again(ten: Path, place: Place) -> None:
    source = build(ten, place)
    tickets = source.plan(10)
    (ticket,) = [ticket for ticket in tickets if source.called(ticket) == "2.png"]
    for _ in range(3):
        with pytest.raises(Unusable, match="cannot be decoded") as error:
            source.make(ticket)
    for path in ten.glob("*.png"):
        path.unlink()
    assert len(source.plan(1000)) == 1000
    with pytest.raises(Unusable, match="cannot be decoded") as again:
        source.make(ticket)
    assert len(again.traceback) <= len(error.traceback), "frames pile up, each with a picture"


def test_shapes_interleave(data: Path, place: Place) -> None:
    """No bucket is exhausted before the next begins."""
    for i in range(32):
        save(plain(64, 64) if i < 16 else plain(96, 48), data / f"{i:02}.png")
    shapes = [sample.image.shape for sample in Images(path=str(data), side=32).build(place, 16).draw(32)]
    assert sum(a != b for a, b in pairwise(shapes)) >= 8


def test_what_is_drawn_depends_on_neither_batch_size_nor_workers(ten: Path, place: Place) -> None:
    wanted = told(build(ten, place, workers=1).draw(30))
    source = build(ten, place, workers=5)
    assert [item for count in (1, 2, 3, 11, 13) for item in told(source.draw(count))] == wanted
    assert len({image for key, image in wanted if key == "0.png"}) > 1  # crops and flips differ between epochs


def test_a_resume_at_any_position_goes_on_with_exactly_what_follows(ten: Path, place: Place) -> None:
    """Also over the end of an epoch, and with broken files in between."""
    unbroken = build(ten, place)
    states, items = [], []
    for _ in range(24):
        states.append(json.loads(json.dumps(unbroken.state_dict())))
        items += told(unbroken.draw(1))
    for position, state in enumerate(states):
        resumed = build(ten, place)
        resumed.load_state_dict(state)
        assert told(resumed.draw(24 - position)) == items[position:]


def test_a_changed_data_set_is_refused_or_told(ten: Path, place: Place) -> None:
    source = build(ten, place)
    source.draw(3)
    state = source.state_dict()
    (ten / "1.txt").write_text("another caption")
    with pytest.raises(QiError, match=r"data changed.*10 usable samples then.*next-epoch"):
        build(ten, place).load_state_dict(state)

    same_keys = build(ten, place, changed="next-epoch")
    same_keys.load_state_dict(state)
    assert told(same_keys.draw(3))[0][0] == told(source.draw(3))[0][0]  # only what is said changed, not the order

    save(plain(64, 64), ten / "new.png")
    with pytest.raises(QiError, match="now 11"):
        build(ten, place).load_state_dict(state)
    other_keys = build(ten, place, changed="next-epoch")
    other_keys.load_state_dict(state)
    assert (other_keys.state_dict()["epoch"], other_keys.state_dict()["index"]) == (1, 0)
    assert len({sample.key for sample in other_keys.draw(11)}) == 8


def test_when_every_file_breaks_the_run_is_told(data: Path, place: Place) -> None:
    for i in range(4):
        save(plain(32, 32), data / f"{i}.png")
    source = Images(path=str(data), side=32).build(place, 16)
    source.draw(2)
    for path in data.glob("*.png"):
        path.unlink()
    with pytest.raises(QiError, match=r"^source.path = .*: no usable sample is left \(4 cannot be read\); check the"):
        source.draw(1)


def test_when_a_disk_is_gone_the_run_stops_early(data: Path, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qi_core.drawing.TRIES", 3)
    for i in range(9):
        save(plain(32, 32), data / f"{i}.png")
    source = Images(path=str(data), side=32).build(place, 16)
    data.rename(data.with_name("elsewhere"))
    with pytest.raises(QiError, match=r"^3 samples in a row .* \d.png: cannot be read \(.*still there"):
        source.draw(8)


def test_one_usable_sample_is_enough(data: Path, place: Place) -> None:
    """By and by all others are asked to stand in."""
    for i in range(40):
        save(plain(32, 32), data / f"{i}.png")
    source = Images(path=str(data), side=32).build(place, 16)
    for i in range(39):
        (data / f"{i}.png").unlink()
    assert {sample.key for sample in source.draw(40)} == {"39.png"}


def test_buckets_keep_to_the_multiple_and_near_the_area(data: Path, place: Place) -> None:
    from qi_core.sizes import bucket, parse_ratio

    sizes = {ratio: bucket(1024**2, parse_ratio(ratio), 16) for ratio in Images(path="x").ratios}
    assert sizes["1:1"] == (1024, 1024)
    assert (sizes["16:9"].width, sizes["16:9"].height) == (1360, 768)
    assert (sizes["9:16"].width, sizes["9:16"].height) == (768, 1360)
    for ratio, size in sizes.items():
        assert size.height % 16 == size.width % 16 == 0
        assert abs(size.height * size.width / 1024**2 - 1) < 0.02
        assert abs(size.ratio / parse_ratio(ratio) - 1) < 0.02


def test_the_documentation_shows_every_key_with_its_default() -> None:
    import tomllib

    text = (Path(__file__).parents[3] / "docs" / "data.md").read_text()
    shown = tomllib.loads(text.split("```toml")[1].split("```")[0])["source"]
    defaults = {
        name: list(value) if isinstance(value, tuple) else value for name, value in asdict(Images(path="x")).items()
    }
    assert shown.keys() - {"name"} == defaults.keys()
    for example in ("path", "side", "ratios"):
        defaults[example] = shown[example]
    assert shown == {"name": "images", **defaults}


def test_the_component_is_read_without_torch() -> None:
    import subprocess
    import sys

    code = (
        "import sys; from qi_plugins.source_images import qi_sources; qi_sources(); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_exif_that_is_broken_does_not_cost_the_picture(data: Path, place: Place) -> None:
    buffer = io.BytesIO()
    plain(32, 32).save(buffer, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01", quality=95)
    (data / "a.jpg").write_bytes(buffer.getvalue())
    (data / "a.txt").write_text("a caption")
    assert only(data, place).image.shape == (3, 32, 32)
