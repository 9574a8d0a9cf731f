"""``qi data lint``: each mistake in a folder, a JSONL or a shard, and what is said of it."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from qi_registry.cli import main


def picture(seed: int, height: int = 64, width: int = 64, kind: str = "PNG", alpha: int | None = None) -> bytes:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (height, width, 3 if alpha is None else 4), np.uint8)
    if alpha is not None:
        pixels[..., 3] = alpha
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


class Set:
    """A folder of pictures that are all right, and a recipe; whose mistakes a test adds."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.recipe = folder / "data", folder / "lint.toml"
        self.folder.mkdir()
        for n in range(12):
            self.add(f"good/{n}.png", picture(n, *((64, 64) if n % 2 else (48, 96))), f"a pattern of dots, number {n}")
        self.source(f'name = "images"\npath = "{self.folder}"\nside = 64')

    def add(self, name: str, content: bytes, caption: str | None = None) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        if caption is not None:
            path.with_suffix(".txt").write_text(caption, encoding="utf-8")

    def lines(self, rows: list[dict[str, Any]], name: str = "images") -> None:
        (self.folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        self.source(f'name = "{name}"\npath = "{self.folder / "rows.jsonl"}"\nside = 64')

    def source(self, text: str) -> None:
        base = 'extends = "recipes/pretrain.toml"\n[train]\nbatch = 4\n[conditioner]\nname = "characters"\n'
        self.recipe.write_text(f"{base}[source]\n{text}\n")


@pytest.fixture
def data(tmp_path: Path) -> Set:
    return Set(tmp_path)


def linted(data: Set, capsys: pytest.CaptureFixture[str], *more: str) -> dict[str, Any]:
    """Findings by rule."""
    code = main(["data", "lint", str(data.recipe), "--json", *more])
    found = json.loads(capsys.readouterr().out)["sources"]
    findings = {finding["rule"]: finding for one in found for finding in one["findings"]}
    assert code == (1 if findings else 0)
    return findings


def test_what_is_all_right_is_said_to_be(data: Set, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "lint", str(data.recipe)]) == 0
    assert capsys.readouterr().out == "source: 12 looked at: nothing found\n"


def _few(data: Set, count: int, **more: Any) -> None:
    for n in range(count):
        data.add(f"more/{n}.png", picture(100 + n), more.get("caption", f"a pattern, {n}"))


MISTAKES: dict[str, tuple[Callable[[Set], None], int, str]] = {
    "missing-captions": (
        lambda data: (data.add("no/1.png", picture(50)), data.add("no/2.png", picture(51), "  \n")),
        2,
        "no/1.png",
    ),
    "captions-are-file-names": (
        lambda data: (
            data.add("n/IMG_0042.png", picture(50), "IMG_0042"),
            data.add("n/2.png", picture(51), "cat_7.jpg"),
        ),
        2,
        "n/2.png: 'cat_7.jpg'",
    ),
    "same-caption": (lambda data: _few(data, 11, caption="an image"), 11, "11 x 'an image'"),
    "mixed-languages": (lambda data: data.add("zh.png", picture(50), "一只猫坐在窗边"), 1, "zh.png: '一只猫坐在窗边'"),
    "edits-without-picture": (
        lambda data: [data.add(f"e/{n}.png", picture(50 + n), f"remove the {n} cats") for n in range(4)],
        4,
        "e/0.png",
    ),
    "duplicates": (
        lambda data: (
            data.add("z/copy.png", picture(3), "the same"),
            data.add("z/other.png", picture(3, 32, 32), "small"),
        ),
        1,
        "z/copy.png is good/3.png",
    ),
    "too-small": (lambda data: data.add("s.png", picture(50, 40, 40), "small"), 1, "s.png: 40x40 for 64x64"),
    "strong-crop": (lambda data: data.add("c.png", picture(50, 64, 280), "a strip"), 1, "c.png: 36% of 280x64"),
    "transparent": (
        lambda data: (
            data.add("t.png", picture(50, alpha=90), "seen through"),
            data.add("o.png", picture(51, alpha=255), "could be and is not"),
        ),
        1,
        "t.png",
    ),
    "unusable": (lambda data: data.add("u.png", b"no picture at all", "words"), 1, "u.png"),
}


@pytest.mark.parametrize("rule", MISTAKES)
def test_each_mistake_is_found_and_counted(rule: str, data: Set, capsys: pytest.CaptureFixture[str]) -> None:
    """And no other is seen in it."""
    make, count, example = MISTAKES[rule]
    make(data)
    found = linted(data, capsys)
    assert found[rule]["count"] == count
    assert any(told.startswith(example) for told in found[rule]["examples"])
    allowed = {rule, "too-small"} if rule == "duplicates" else {rule}
    assert set(found) <= allowed
    assert found[rule]["advice"]


def test_beside_pictures_lie_things_that_should_have_been_some(data: Set, capsys: pytest.CaptureFixture[str]) -> None:
    (data.folder / "empty").mkdir()
    (data.folder / "good" / "lost.txt").write_text("a caption without its picture")
    main(["data", "lint", str(data.recipe)])
    told = capsys.readouterr().out
    assert "unusable: 1 of 14: folder without pictures" in told
    assert "unusable: 1 of 14: caption without a picture" in told
    assert "    good/lost.txt" in told


def test_pictures_of_one_shape_are_told(data: Set, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(data.folder / "good")
    for n in range(20):
        data.add(f"{n}.png", picture(n), f"a pattern, number {n}")
    found = linted(data, capsys)
    assert set(found) == {"one-bucket"}
    assert "one of 9 shapes, 64x64" in found["one-bucket"]["what"]
    data.source(f'name = "images"\npath = "{data.folder}"\nside = 64\nratios = ["1:1"]')
    assert not linted(data, capsys)


def test_what_is_enlarged_is_told_where_it_is_allowed(data: Set, capsys: pytest.CaptureFixture[str]) -> None:
    data.add("s.png", picture(50, 40, 40), "small")
    data.source(f'name = "images"\npath = "{data.folder}"\nside = 64\nupscale = "allow"')
    assert linted(data, capsys)["upscaled"]["examples"] == ["s.png: 40x40 for 64x64"]


@pytest.mark.parametrize(
    ("image", "reference", "swapped"), [("before", "after", 4), ("after", "before", 0), ("a", "b", 0)]
)
def test_target_and_reference_are_told_apart_by_their_names(
    image: str, reference: str, swapped: int, data: Set, capsys: pytest.CaptureFixture[str]
) -> None:
    for n in range(4):
        data.add(f"pairs/{n}_{image}.png", picture(60 + n))
        data.add(f"pairs/{n}_{reference}.png", picture(80 + n))
    data.lines(
        [
            {"image": f"pairs/{n}_{image}.png", "caption": "make it blue", "references": [f"pairs/{n}_{reference}.png"]}
            for n in range(4)
        ]
    )
    found = linted(data, capsys)
    assert found.get("swapped", {"count": 0})["count"] == swapped
    assert set(found) <= {"swapped"}


def test_a_target_that_is_its_reference_teaches_nothing(data: Set, capsys: pytest.CaptureFixture[str]) -> None:
    data.lines(
        [
            {"image": "good/1.png", "caption": "make it blue", "references": ["good/3.png"]},
            {"image": "good/5.png", "caption": "make it red", "references": ["good/5.png"]},
        ]
    )
    found = linted(data, capsys)
    assert set(found) == {"target-is-reference"}
    assert found["target-is-reference"]["examples"] == ["good/5.png:2"]


def test_a_winner_that_is_its_loser_is_told(data: Set, capsys: pytest.CaptureFixture[str]) -> None:
    data.add("good/copy.png", picture(5, 64, 64))
    data.lines(
        [
            {"prompt": "dots", "winner": "good/1.png", "loser": "good/3.png"},
            {"prompt": "dots", "winner": "good/5.png", "loser": "good/copy.png"},
        ],
        "pairs",
    )
    text = data.recipe.read_text().replace(
        "[source]", '[objective]\nname = "dpo"\n[source]\nheld_out = 0.0\nsplit = "all"'
    )
    data.recipe.write_text(text)
    assert set(linted(data, capsys)) == {"winner-is-loser"}


def test_captions_are_counted_as_the_conditioner_counts_or_estimated_and_said_so(
    data: Set, capsys: pytest.CaptureFixture[str]
) -> None:
    data.add("long.png", picture(50), "dots and lines, " * 300)
    data.recipe.write_text(data.recipe.read_text().replace('"characters"', '"qwen2.5-vl"\npath = "/nowhere"'))
    found = linted(data, capsys)
    assert set(found) == {"captions-cut"}
    assert "more than 1024 tokens (estimated, for the tokenizer's files are not here)" in found["captions-cut"]["what"]
    assert "long.png: 1200 tokens, of which 176 go" in found["captions-cut"]["examples"][0]


def test_torn_files_are_found_where_all_is_decoded(data: Set, capsys: pytest.CaptureFixture[str]) -> None:
    whole = picture(50, kind="JPEG")
    data.add("torn.jpg", whole[: len(whole) // 2], "the lower half is gone")
    assert not linted(data, capsys)
    assert linted(data, capsys, "--decode")["unusable"]["what"] == "cannot be decoded"


def test_parts_of_a_mixture_are_looked_at_each_and_shards_too(
    data: Set, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, content in (
            ("1.png", picture(1)),
            ("1.txt", b"dots"),
            ("2.png", picture(1)),
            ("2.txt", b"the same"),
            ("3.txt", b"x"),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    data.source(
        f'name = "mixture"\n[[source.parts]]\nsource = {{name = "images", path = "{data.folder}", side = 64}}\n'
        f'[[source.parts]]\nsource = {{name = "webdataset", shards = ["{tmp_path}/a.tar"], side = 64, '
        f'cache = "{tmp_path}/c"}}'
    )
    assert main(["data", "lint", str(data.recipe)]) == 1
    told = capsys.readouterr().out.splitlines()
    assert told[0] == "source.parts[0].source: 12 looked at: nothing found"
    assert told[1] == "source.parts[1].source: 3 looked at: 2 kinds of findings, 2 in all"
    assert "    a.tar/2 is a.tar/1" in told
    assert "unusable: 1 of 3: no picture under this name" in told[2]


def test_what_is_meant_can_be_left_out_and_the_first_ones_be_enough(
    data: Set, capsys: pytest.CaptureFixture[str]
) -> None:
    data.add("zz.png", picture(50))
    assert set(linted(data, capsys)) == {"missing-captions"}
    assert not linted(data, capsys, "--skip", "missing-captions")
    assert not linted(data, capsys, "--most", "12")
    main(["data", "lint", str(data.recipe), "--most", "12"])
    assert "12 looked at, the first ones; leave --most out to look at all: nothing found" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        ('name = "rendered-text"', "no source of the recipe has files to look at"),
        ('name = "images"\npath = "/nowhere/at/all"', "nothing is there"),
        ('name = "imagse"', "did you mean 'images'"),
    ],
)
def test_where_it_cannot_look_it_says_so_in_one_line(
    source: str, wanted: str, data: Set, capsys: pytest.CaptureFixture[str]
) -> None:
    data.source(source)
    assert main(["data", "lint", str(data.recipe)]) == 2
    assert wanted in capsys.readouterr().err


def test_names_of_files_command_no_terminal(data: Set, capsys: pytest.CaptureFixture[str]) -> None:
    data.add("\x1b[2Jgone.png", picture(50))
    main(["data", "lint", str(data.recipe)])
    told = capsys.readouterr().out
    assert "\\x1b[2Jgone.png" in told
    assert "\x1b" not in told
