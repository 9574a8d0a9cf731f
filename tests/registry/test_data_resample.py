"""qi data resample on a real folder: judged, weighed, and drawn as often as was told."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from attrs import evolve
from PIL import Image

from qi_core import Place
from qi_core.filtering import Verdict
from qi_core.manifest import Head, head_of, row_of
from qi_core.quotes import quoted
from qi_core.testing import check_source
from qi_plugins.source_images.curated import Curated
from qi_plugins.source_images.images import Images
from qi_registry.cli import main
from support.small_run import RECIPE, here, losses

SIGNS = 12 * ["STOP"] + 3 * ["CAFÉ"] + ["茶"]
"""What the pictures say: one word often, one sometimes, one character once."""


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number, sign in enumerate(SIGNS):
        own = folder / ("street" if sign == "STOP" else "shop")
        own.mkdir(exist_ok=True)
        Image.new("RGB", (32, 32), (10 * number, 99, 0)).save(own / f"{number:02}.png")
        (own / f"{number:02}.txt").write_text(f'a sign that says "{sign}"')
    return folder


def write(path: Path, source: str) -> Path:
    head, _, rest = RECIPE.partition("[source]")
    _, _, rest = rest.partition("lengths = [1, 2]\n")
    path.write_text(f"{head}[source]\n{source}{rest}")
    return path


@pytest.fixture(scope="module")
def recipe(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("run") / "r.toml", f'name = "images"\npath = "{photos}"\nside = 32\n')


@pytest.fixture(scope="module")
def manifest(photos: Path, recipe: Path) -> Path:
    """As a pass of no filters writes it."""
    source = Images(path=str(photos), side=32).build(place(recipe.parent), 8)
    rows = [row_of(sample, Verdict(values={}), "") for sample in source.draw(len(SIGNS))]
    path = recipe.with_name("manifest.jsonl")
    path.write_text("".join(f"{line}\n" for line in [head_of(Head(made_by="", bars={})), *rows]))
    return path


@pytest.fixture(scope="module")
def weights(manifest: Path) -> Path:
    path = manifest.with_name("weights.jsonl")
    words = ["--by", "text", "--about", "12", "--repeats", "3", "-o", str(path)]
    assert main(["data", "resample", str(manifest), *words]) == 0
    return path


def place(folder: Path, even: bool = False) -> Place:
    return Place(device=torch.device("cpu"), dtype=torch.float32, seed=0, folder=folder, even=even)


def signs(source: Any, draws: int) -> Counter[str]:
    return Counter(quoted(sample.prompt)[0] for sample in source.draw(draws))


def test_the_tail_of_what_pictures_say_is_lifted_and_told(
    photos: Path, manifest: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """12, 3 and 1 of 16 become 12, 6 and 3 of 21: (12 / 3) ** 0.5 times as often, and a cap of 3."""
    again = tmp_path / "weights.jsonl"
    words = ["--by", "text", "--about", "12", "--repeats", "3", "-o", str(again)]
    assert main(["data", "resample", str(manifest), *words]) == 0
    told = capsys.readouterr().out
    assert again.read_bytes() == weights.read_bytes()
    assert "an epoch draws 21 samples of 16; 1 come 3 times" in told
    assert [line.split() for line in told.splitlines() if "茶" in line] == [["茶", "1", "3.0", "3.00"]]
    plain, lifted = (
        Images(path=str(photos), side=32, weights_file=own).build(place(tmp_path), 8) for own in ("", str(weights))
    )
    assert signs(plain, 16) == {"STOP": 12, "CAFÉ": 3, "茶": 1}
    for _ in range(3):
        assert signs(lifted, 21) == {"STOP": 12, "CAFÉ": 6, "茶": 3}, "in every epoch"
    even = Images(path=str(photos), side=32, weights_file=str(weights)).build(place(tmp_path, even=True), 8)
    assert signs(even, 16) == {"STOP": 12, "CAFÉ": 3, "茶": 1}, "a pass over all samples sees each once"


def test_within_categories_and_between_them_they_hold_too(photos: Path, weights: Path, tmp_path: Path) -> None:
    images = Images(path=str(photos), side=32, weights_file=str(weights))
    natural = Curated(balance="natural", images=images)
    found = signs(natural.build(place(tmp_path), 8), 21 * 64)
    assert found == {"STOP": 12 * 64, "CAFÉ": 6 * 64, "茶": 3 * 64}
    assert json.loads((tmp_path / "curation.json").read_text())[str(photos)]["shop"]["samples"] == 9
    gone = tmp_path / "gone.jsonl"
    gone.write_text("".join(f'{{"key": "shop/{number}.png", "weight": 0}}\n' for number in range(12, 16)))
    source = evolve(natural, images=evolve(images, weights_file=str(gone))).build(place(tmp_path), 8)
    assert signs(source, 64) == {"STOP": 64}
    assert source.report()["shop: left out, for all its samples weigh 0"] == 4


def test_whoever_makes_them_and_after_a_resume_they_are_the_same(
    photos: Path, recipe: Path, weights: Path, tmp_path: Path
) -> None:
    """Over the end of an epoch; and a run that stops in the second one goes on as if it had not."""
    check_source(Images(path=str(photos), side=32, weights_file=str(weights), flip=True), count=24)
    own = ["--set", f'source.weights_file="{weights}"']
    here("run", recipe, "--folder", tmp_path / "whole", *own, "--set", "train.steps=12")
    here("run", recipe, "--folder", tmp_path / "halves", *own, "--set", "train.steps=7")
    here("run", recipe, "--folder", tmp_path / "halves", *own, "--set", "train.steps=12")
    assert losses(tmp_path / "halves") == losses(tmp_path / "whole")
    assert len(losses(tmp_path / "whole")) == 12


def test_a_part_of_a_mixture_is_weighed_by_itself(photos: Path, manifest: Path, tmp_path: Path) -> None:
    mixed, weights = tmp_path / "mixed.jsonl", tmp_path / "weights.jsonl"
    head, *rows = manifest.read_text().splitlines(keepends=True)
    parts = [row.replace('"key": "', f'"key": "{name}/') for row in rows for name in ("one", "two")]
    mixed.write_text("".join([head, *parts]))
    words = ["data", "resample", str(mixed), "--by", "category", "--about", "12", "-o", str(weights)]
    assert main([*words, "--part", "two"]) == 0
    keys = [json.loads(line)["key"] for line in weights.read_text().splitlines()]
    assert sorted(keys) == sorted(str(path.relative_to(photos)) for path in photos.rglob("*.png"))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--about", "0"], "--about 0: at least 1 was wanted"),
        (["--about", "9", "--exponent", "2"], "--exponent 2: 0 to 1 was wanted"),
        (["--about", "9", "--fewest", "5"], "--fewest 5 --repeats 4: wanted 0.001 to 1000, and the latter not below"),
        (
            ["--about", "9", "--part", "none"],
            "wanted samples that filters keep; none of 16 is of the part 'none' (such",
        ),
    ],
)
def test_what_cannot_be_is_one_line(
    words: list[str], told: str, manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "resample", str(manifest), "--by", "words", *words]) == 2
    assert told in capsys.readouterr().err
