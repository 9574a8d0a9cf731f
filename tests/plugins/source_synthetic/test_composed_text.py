"""Source ``composed-text``: what is written on things in scenes, what is said about it, and that it can be read."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from qi_core import Place, QiError, Sample
from qi_core.quotes import quoted
from qi_core.source import Planned
from qi_core.strings import is_held_out
from qi_core.testing import check_component, check_source
from qi_plugins.source_synthetic.component import THINGS, ComposedText
from qi_plugins.source_synthetic.live import SyntheticSource
from qi_plugins.source_synthetic.perspective import applied, inverted, seen
from qi_plugins.source_synthetic.things import KINDS
from qi_plugins.source_synthetic.wheres import where


def build(run: Path, seed: int = 0, **settings: Any) -> SyntheticSource:
    place = Place(device=torch.device("cpu"), dtype=torch.float32, seed=seed, folder=run)
    return ComposedText(**{"side": 128, **settings}).build(place, 16)


def photographs(folder: Path, count: int = 3) -> Path:
    """Pictures of which each is of one colour, and what is said about them."""
    folder.mkdir()
    for number in range(count):
        Image.new("RGB", (320, 240), (60 + 40 * number, 90, 140)).save(folder / f"{number}.jpg")
        (folder / f"{number}.txt").write_text(f"a lake in the evening, number {number}")
    return folder


def test_the_contracts(tmp_path: Path) -> None:
    check_component(ComposedText)
    check_source(ComposedText(side=64, ratios=("1:1", "3:2"), objects=(1, 4)), multiple=16)
    check_source(ComposedText(side=64, backgrounds=photographs(tmp_path / "photographs")), multiple=16, count=6)
    assert isinstance(build(tmp_path), Planned)


def test_captions_quote_all_that_is_written_and_say_where(tmp_path: Path) -> None:
    places = re.compile(r"upper|lower|top|bottom|middle|on the (left|right)|[上下左右中]")
    for sample in build(tmp_path, objects=(1, 3)).draw(40):
        assert "\n".join(quoted(sample.prompt)) == sample.text
        assert places.search(sample.prompt)
        assert sample.category.split("/")[:2] == ["text", "compositional"]
        assert sample.image.shape == (3, 128, 128)


@pytest.mark.parametrize("thing", THINGS)
def test_every_thing_is_drawn(thing: str, tmp_path: Path) -> None:
    assert list(KINDS) == list(THINGS)
    for sample in build(tmp_path, things=(thing,)).draw(6):
        assert sample.category == f"text/compositional/{thing}"
        assert sample.image.float().std() > 5


def test_places_have_names() -> None:
    assert where(0.1, 0.1, "english") == "in the upper left"
    assert where(0.5, 0.9, "english") == "at the bottom"
    assert where(0.9, 0.5, "chinese") == "右侧"
    assert where(1.2, -0.1, "english") == "in the upper right"


def test_a_sample_is_the_same_in_every_thread_and_process(tmp_path: Path) -> None:
    source = build(tmp_path, seed=5, side=256)
    tickets = source.plan(16)
    here = [digest(source.make(ticket)) for ticket in tickets]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda ticket: digest(source.make(ticket)), tickets)) == here
    code = (
        "import sys, torch; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
        "from test_composed_text import build, digest\n"
        "source = build(Path(sys.argv[2]), seed=5, side=256)\n"
        "print(*(digest(source.make((n, 0))) for n in reversed(range(16))))"
    )
    command = [sys.executable, "-c", code, str(Path(__file__).parent), str(tmp_path)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONHASHSEED": "7"}
    )
    assert done.stdout.split() == here[::-1]


def digest(sample: Sample) -> str:
    import hashlib

    told = f"{sample.key}/{sample.prompt}/{sample.text}".encode()
    return hashlib.blake2b(told + sample.image.numpy().tobytes(), digest_size=8).hexdigest()


@pytest.mark.parametrize("words", ["common", "random"])
def test_what_is_held_out_is_never_drawn_for_training(words: str, tmp_path: Path) -> None:
    common: dict[str, Any] = {"side": 64, "words": words, "held_out": 0.3, "count": (1, 3)}
    for sample in build(tmp_path, **common).draw(60):
        assert not any(is_held_out(part, 0.3) for part in {*sample.text.split("\n"), *sample.text.split()})
    for sample in build(tmp_path, **common, split="held-out").draw(30):
        assert all(is_held_out(line, 0.3) for line in sample.text.split("\n"))


def test_lines_of_a_file_each_come_once_before_any_comes_twice(tmp_path: Path) -> None:
    lines = [f"line number {number}" for number in range(8)] + ["第一行字", 'a "quoted" line', "Ω line"]
    (tmp_path / "lines.txt").write_text("\n".join(lines), encoding="utf-8")
    source = build(
        tmp_path, side=256, text=tmp_path / "lines.txt", held_out=0.0, languages=("english",), objects=(2, 2)
    )
    texts = [text for sample in source.draw(4) for text in sample.text.split("\n")]
    assert sorted(texts) == lines[:8]
    assert source.report() == {
        "holds a double quote": 1,
        "holds a character that no font has": 1,
        "is of a language that is not named": 1,
    }


def test_a_line_that_fits_on_nothing_is_counted_and_another_comes(tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("short\n" + "very long words " * 60, encoding="utf-8")
    source = build(tmp_path, text=tmp_path / "lines.txt", held_out=0.0, languages=("english",), objects=(1, 1))
    assert {sample.text for sample in source.draw(12)} == {"short"}
    assert source.report()["does not fit the thing that it should stand on"] > 0


def test_photographs_are_the_ground_and_begin_the_caption(tmp_path: Path) -> None:
    source = build(tmp_path, backgrounds=photographs(tmp_path / "photographs"), shade=0.0, grain=0.0)
    colours = set()
    for sample in source.draw(12):
        match = re.match(r"a lake in the evening, number (\d)[.。]", sample.prompt)
        assert match
        corner = sample.image[:, 0, 0].float()
        tint = corner / corner.max()  # light may be warm or cold
        wanted = torch.tensor([60 + 40 * int(match[1]), 90, 140]).float()
        assert (tint - wanted / wanted.max()).abs().max() < 0.16
        colours.add(match[1])
    assert colours == {"0", "1", "2"}


def test_a_broken_photograph_is_counted_and_another_comes(tmp_path: Path) -> None:
    folder = photographs(tmp_path / "photographs", count=1)
    (folder / "broken.jpg").write_bytes((folder / "0.jpg").read_bytes()[:300])
    Image.new("RGB", (8, 8)).save(folder / "tiny.png")
    source = build(tmp_path, side=256, backgrounds=folder)
    source.draw(12)
    assert set(source.report()) == {"cannot be decoded", "background too small"}
    assert (tmp_path / "skipped.jsonl").read_text().count("\n") == sum(source.report().values())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"things": ("wall",), "backgrounds": Path(__file__).parents[3] / "docs/images"}, "need a computed one"),
        ({"backgrounds": Path("nowhere")}, "backgrounds = 'nowhere': no such folder"),
        ({"text": Path("nowhere.txt")}, "cannot be read"),
        ({"letters": "\U0001f600", "words": "random"}, "no glyph"),
        ({"held_out": 0.0001, "split": "held-out", "count": (1, 1), "words": "random", "lengths": (1, 1)}, "belongs"),
    ],
)
def test_what_cannot_be_drawn_is_told_in_one_line(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(QiError, match=re.escape(message)) as error:
        build(tmp_path, **settings).draw(1)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"things": ("papre",)}, "'things' names papre; wanted some of paper"),
        ({"languages": ()}, "'languages' names nothing"),
        ({"objects": (1, 5)}, "more than 4"),
        ({"count": (3, 2)}, "fewest"),
        ({"split": "held-out", "held_out": 0.0}, "holds nothing out"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        ComposedText(**settings)


def test_a_sheet_is_seen_as_a_pinhole_camera_sees_it() -> None:
    view = seen(200, 100, yaw=0.5, pitch=0.2, roll=0.1, room=(10, 20, 300, 200), share=0.9)
    for point, corner in zip(((0, 0), (200, 0), (200, 100), (0, 100)), view.corners, strict=True):
        assert applied(view.matrix, point) == pytest.approx(corner)
        assert applied(inverted(view.matrix), corner) == pytest.approx(point, abs=1e-6)
    across, down = zip(*view.corners, strict=True)
    assert min(across) >= 10
    assert max(across) <= 310
    assert min(down) >= 20
    assert max(down) <= 220
    assert max((max(across) - min(across)) / 300, (max(down) - min(down)) / 200) == pytest.approx(0.9)
    # What Pillow is told leads back to the sheet: (x, y) of the box -> (x, y) of the sheet.
    a, b, c, d, e, f, g, h = view.coefficients()
    u, v = view.corners[2][0] - view.box[0], view.corners[2][1] - view.box[1]
    assert ((a * u + b * v + c) / (g * u + h * v + 1), (d * u + e * v + f) / (g * u + h * v + 1)) == pytest.approx(
        (200, 100), abs=1e-6
    )


def test_straight_on_it_is_only_moved_and_scaled() -> None:
    view = seen(100, 50, yaw=0.0, pitch=0.0, roll=0.0, room=(0, 0, 200, 200), share=1.0)
    assert np.ravel(view.corners) == pytest.approx([0, 50, 200, 50, 200, 150, 0, 150])
    assert view.facing == 1.0


def test_a_resume_notices_what_was_edited_of_lines_and_photographs(tmp_path: Path) -> None:
    lines, folder = tmp_path / "lines.txt", photographs(tmp_path / "photographs")
    lines.write_text("SALE\nOPEN\n")
    settings: dict[str, Any] = {"side": 64, "text": lines, "backgrounds": folder, "held_out": 0}
    kept = build(tmp_path, **settings).state_dict()
    build(tmp_path, **settings).load_state_dict(kept)
    lines.write_text("SALE\nSHUT\n")
    with pytest.raises(QiError, match=r"^source: text = '.*lines.txt' changed since the checkpoint"):
        build(tmp_path, **settings).load_state_dict(kept)
    lines.write_text("SALE\nOPEN\n")
    (folder / "0.txt").write_text("a mountain")
    with pytest.raises(QiError, match=r"^source: backgrounds = '.*photographs' changed since the checkpoint"):
        build(tmp_path, **settings).load_state_dict(kept)
    build(tmp_path, **settings, changed="next-epoch").load_state_dict(kept)


def test_a_photograph_that_changes_while_it_is_drawn_from_is_passed_over(tmp_path: Path) -> None:
    folder = photographs(tmp_path / "photographs", count=2)
    source = build(tmp_path, side=64, backgrounds=folder)
    Image.new("RGB", (320, 240), "red").save(folder / "1.jpg")
    assert {sample.prompt.split(",")[0] for sample in source.draw(12)} == {"a lake in the evening"}
    assert source.report()["changed since it was found"] >= 1
    assert all("number 0" in sample.prompt for sample in source.draw(12))


def test_a_photograph_whose_caption_is_gone_is_passed_over(tmp_path: Path) -> None:
    """Without, it would be another sample than whoever drew it before has made."""
    folder = photographs(tmp_path / "photographs", count=2)
    source = build(tmp_path, side=64, backgrounds=folder)
    (folder / "1.txt").unlink()
    assert all("number 0" in sample.prompt for sample in source.draw(12))
    assert source.report()["background cannot be read"] >= 1
