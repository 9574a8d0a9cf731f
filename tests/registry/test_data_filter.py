"""qi data filter, report, duplicates and balance on real files: all samples judged, resumable, killed, shown."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from qi_core.manifest import Row, read
from qi_registry import judging
from qi_registry.cli import main
from qi_registry.judging import new_tickets
from support import killer
from support.planned import Deal, greys
from support.small_run import RECIPE, environment

EVIL = 'a "noisy" <x onload=alert(1)> & picture'


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty-four pictures in two folders, of which some are plain, dark, copied, turned, torn or badly captioned."""
    folder = tmp_path_factory.mktemp("photos")
    dice = np.random.default_rng(0)
    for number in range(24):
        small = Image.fromarray(dice.integers(0, 256, (12, 12, 3), dtype=np.uint8))
        picture = small.resize((96, 96), Image.Resampling.BICUBIC)
        if number % 6 == 1:
            picture = Image.new("RGB", (96, 96), (number, 2 * number, 3 * number))
        own = folder / ("people", "nature")[number % 2]
        own.mkdir(exist_ok=True)
        turned = Image.Exif()
        turned[274] = 3
        picture.save(own / f"{number:02}.jpg", quality=92, exif=turned if number == 2 else Image.Exif())
        (own / f"{number:02}.txt").write_text("Sorry, I cannot do that." if number == 4 else EVIL)
        if number == 6:
            picture.resize((80, 80)).save(own / "copy.jpg", quality=80)
            (own / "copy.txt").write_text("a copy")
    (folder / "none.png").write_bytes(b"nothing")
    (folder / "none.txt").write_text("none")
    (folder / "torn.jpg").write_bytes((folder / "people" / "00.jpg").read_bytes()[:1500])
    (folder / "torn.txt").write_text("torn")
    return folder


@pytest.fixture(scope="module")
def recipe(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    head, _, rest = RECIPE.partition("[source]")
    filters = (("rotation", ""), ("entropy", "least = 2"), ("invalid-caption", ""), ("clarity", ""))
    told = "".join(f'[[data.filters]]\nname = "{name}"\n{bar}\n' for name, bar in filters)
    text = f'{head}[source]\nname = "images"\npath = "{photos}"\nside = 64\n{told}{rest.partition("lengths")[2]}'
    text = text.replace(" = [1, 2]\n", "", 1)
    path = tmp_path_factory.mktemp("recipe") / "photos.toml"
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def manifest(recipe: Path) -> Path:
    path = recipe.with_name("manifest.jsonl")
    assert main(["data", "filter", str(recipe), "-o", str(path), "--processes", "1"]) == 0
    return path


def rows(path: Path) -> dict[str, Row]:
    return {row.key: row for row in read(path)[1]}


def test_every_sample_has_a_row_with_all_values_and_verdicts(manifest: Path) -> None:
    found = rows(manifest)
    assert len(found) == 27
    assert found["none.png"].lost == "not a picture"
    assert found["torn.jpg"].lost == "cannot be decoded"
    judged = {key: row for key, row in found.items() if not row.lost}
    assert all(list(row.values) == ["rotation", "entropy", "invalid-caption", "clarity"] for row in judged.values())
    refused = {key: dict(row.reasons) for key, row in judged.items() if row.reasons}
    assert refused.pop("people/02.jpg") == {"rotation": "turned by EXIF"}
    assert refused.pop("people/04.jpg") == {"invalid-caption": "refusal"}
    assert refused == {f"nature/{number:02}.jpg": {"entropy": "not detailed"} for number in (1, 7, 13, 19)}
    assert {row.category for row in judged.values()} == {"people", "nature"}
    assert all(row.pixels == 96 * 96 and row.bytes for key, row in judged.items() if "copy" not in key)


def test_a_pass_that_was_cut_off_goes_on_and_another_recipe_is_refused(
    recipe: Path, manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, lines = tmp_path / "cut.jsonl", manifest.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:8]) + lines[8][:40])
    assert main(["data", "filter", str(recipe), "-o", str(path), "--processes", "1"]) == 0
    assert path.read_bytes().splitlines(keepends=True)[:8] == lines[:8]
    assert sorted(path.read_bytes().splitlines()) == sorted(manifest.read_bytes().splitlines())
    assert main(["data", "filter", str(recipe), "-o", str(path), "--set", "train.seed=9"]) == 2
    assert "is of other data, another seed or other filters" in capsys.readouterr().err


def test_one_process_at_a_time_writes_a_manifest(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "manifest.jsonl"
    with path.open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert main(["data", "filter", str(recipe), "-o", str(path), "--processes", "1"]) == 2
    assert "another process is writing to it" in capsys.readouterr().err


def test_a_file_that_is_no_manifest_keeps_every_byte(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    notes = tmp_path / "notes.txt"
    for text in ("mine, without an end of its line", "one\ntwo"):
        notes.write_text(text)
        assert main(["data", "filter", str(recipe), "-o", str(notes), "--processes", "1"]) == 2
        assert "not that of a manifest" in capsys.readouterr().err
        assert notes.read_text() == text


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self").exists(), reason="the children of a process are found in /proc")
def test_a_killed_process_costs_nothing(recipe: Path, manifest: Path, tmp_path: Path) -> None:
    path = tmp_path / "killed.jsonl"
    command = [sys.executable, "-m", "qi_registry.cli", "data", "filter", str(recipe), "-o", str(path)]
    running = subprocess.Popen([*command, "--processes", "1"], env=environment(), stderr=subprocess.DEVNULL)
    children = Path(f"/proc/{running.pid}/task/{running.pid}/children")
    while running.poll() is None:
        own = [
            pid for pid in children.read_text().split() if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]
        if own:
            time.sleep(0.5)
            os.kill(int(own[0]), signal.SIGKILL)
            break
        time.sleep(0.02)
    assert running.wait(120) == 0
    assert rows(path) == rows(manifest)


def test_a_sample_that_always_kills_its_process_is_lost_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judging, "_begin", killer.begin)
    monkeypatch.setattr(judging, "_judge", killer.judge)
    monkeypatch.setattr(judging, "CHUNK", 4)
    work = judging.Work(recipe="", multiple=8, folder=str(tmp_path), eyes="")
    chunks = judging._chunks(((number,), f"key-{number}") for number in range(40))
    rows = [row for some in judging._judged(work, 2, chunks) for row in some]
    lost = {"key": "key-13", "lost": judging.KILLED, "detail": ""}
    assert [row for row in rows if row.startswith("row")] == [f"row {number}" for number in range(40) if number != 13]
    assert json.loads(rows[13]) == lost


@pytest.mark.slow
def test_a_sample_that_takes_for_ever_is_lost_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "_begin", killer.begin)
    monkeypatch.setattr(judging, "_judge", killer.judge)
    monkeypatch.setattr(judging, "CHUNK", 1)
    monkeypatch.setattr(judging, "LONGEST", 3.0)
    work = judging.Work(recipe="", multiple=8, folder=str(tmp_path), eyes="")
    chunks = judging._chunks(((number,), f"key-{number}") for number in (1, 99, 2))
    first, lost, last = [row for some in judging._judged(work, 1, chunks) for row in some]
    assert (first, last) == ("row 1", "row 2")
    assert json.loads(lost) == {"key": "key-99", "lost": judging.KILLED, "detail": ""}


def test_new_tickets_end_where_nothing_new_comes() -> None:
    assert [name for _, name in new_tickets(Deal(greys(10)), set(), 0)] == [f"grey-{number}" for number in range(10)]
    fresh = new_tickets(Deal(greys(10)), {"grey-3", "grey-4"}, 6)
    assert [name for _, name in fresh] == [f"grey-{number}" for number in (0, 1, 2, 5)]


class Page(HTMLParser):
    """Tags, and what is said between them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, Any]]] = []
        self.open: list[str] = []
        self.said = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br", "rect", "line"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("rect", "line"):
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.said += f"{data} "

    def all(self, tag: str) -> Iterator[dict[str, Any]]:
        return (attrs for name, attrs in self.tags if name == tag)


def test_the_report_of_a_manifest(manifest: Path, tmp_path: Path) -> None:
    output = tmp_path / "report.html"
    assert main(["data", "report", str(manifest), "-o", str(output)]) == 0
    text = output.read_text()
    page = Page(text)
    assert not page.open
    for told in (
        "25 samples were judged and 19 kept",
        "turned by EXIF 1",
        "not detailed 4",
        "refusal 1",
        "torn.jpg",
        EVIL,
    ):
        assert told in " ".join(page.said.split()), told
    assert "<script" not in text
    assert len(list(page.all("svg"))) == 4
    sources = [image["src"] for image in page.all("img")]
    assert sources
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
    assert not any(attrs.get("href", "#").startswith("http") for _, attrs in page.tags)


def test_the_report_of_a_run(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, output = tmp_path / "run", tmp_path / "report.html"
    small = ["--set", "train.steps=16", "--set", "train.save_every=0"]
    assert main(["run", str(recipe), "--set", f'folder="{folder}"', *small]) == 0
    assert main(["data", "report", str(folder), "-o", str(output)]) == 0
    said = " ".join(Page(output.read_text()).said.split())
    assert "25 samples were judged and 19 kept" in said
    funnel = said.partition("Funnel")[2].partition("Categories")[0]
    assert "entropy at least 2 24 4 16.7 % not detailed 4" in funnel
    assert "not a picture 1" in said
    assert "not detailed 4" not in said.partition("What the source could not use")[2].partition("rotation")[0]
    (tmp_path / "empty").mkdir()
    assert main(["data", "report", str(tmp_path / "empty"), "-o", str(output)]) == 0
    assert "nothing was measured there" in capsys.readouterr().out
    assert main(["data", "report", str(tmp_path / "nowhere"), "-o", str(output)]) == 2


def test_duplicates_are_listed(manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listed = tmp_path / "duplicates.jsonl"
    assert main(["data", "duplicates", str(manifest), "-o", str(listed)]) == 0
    told = {each["key"]: each["of"] for each in map(json.loads, listed.read_text().splitlines())}
    assert told.pop("people/copy.jpg") == "people/06.jpg", "the one with more pixels is kept"
    plain = {f"nature/{number:02}.jpg" for number in (1, 7, 13, 19)}
    assert len(told) == 3
    assert {*told, *told.values()} == plain, "plain pictures are alike, and nothing else is"
    assert main(["data", "duplicates", str(manifest), "-o", str(listed), "--distance", "40"]) == 2
    assert main(["data", "duplicates", str(listed), "-o", str(listed)]) == 2
    capsys.readouterr()


def test_balance_by_category_and_by_words(manifest: Path, tmp_path: Path) -> None:
    for by, most, left in (("category", "5", 19 - 10), ("words", "100", 0)):
        output = tmp_path / f"{by}.jsonl"
        assert main(["data", "balance", str(manifest), "--by", by, "--most", most, "-o", str(output)]) == 0
        assert len(output.read_text().splitlines()) == left
