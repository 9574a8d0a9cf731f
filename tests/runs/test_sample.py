"""qi sample: any prompt, any size that fits, and one clear line where it doesn't."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from qi_core import QiError
from qi_registry.verbs.sample import Sample, load_reference
from support.small_run import here, write_recipe


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample")
    here("run", write_recipe(folder), "--folder", folder / "run", "--set", "train.steps=2")
    return folder / "run"


def test_several_prompts_make_several_pictures(run: Path, tmp_path: Path) -> None:
    here("sample", run, 'the word "HI"', "文字“你好”", "-o", tmp_path / "x.png", "--size", "48x24")
    for name in ("x-1.png", "x-2.png"):
        with Image.open(tmp_path / name) as image:
            assert image.size == (48, 24), "width x height, never swapped"


def test_a_picture_depends_on_seed_and_prompt_alone(run: Path, tmp_path: Path) -> None:
    here("sample", run, "a", "-o", tmp_path / "alone.png")
    here("sample", run, "a", "b b b", "-o", tmp_path / "pair.png")
    here("sample", run, "a", "-o", tmp_path / "other.png", "--seed", "7")
    alone = (tmp_path / "alone.png").read_bytes()
    assert alone == (tmp_path / "pair-1.png").read_bytes()
    assert alone != (tmp_path / "other.png").read_bytes()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--size", "50x16"), "multiples of 8"),
        (("--size", "big"), "want WIDTHxHEIGHT"),
        (("--size", "99999x99999"), "at most 64 million"),
        (("-o", "nowhere/x.png"), "does not exist"),
        (("-o", "x.jpg"), "let -o end in .png"),
        (("--reference", "pyproject.toml"), "no picture that can be read (not a picture"),
        (("--reference-side", "-8"), "want pixels"),
        (("--reference", "nothing.png"), "no picture that can be read"),
        (("--set", "sampler=hein"), "did you mean 'heun'"),
    ],
)
def test_bad_input_gets_one_clear_line(
    run: Path, words: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    here("sample", run, "a", *words, code=2)
    err = capsys.readouterr().err
    assert told in err
    assert len(err.strip().splitlines()) == 1


def test_where_a_picture_goes_is_asked_before_anything_is_painted(tmp_path: Path) -> None:
    with pytest.raises(QiError, match="let -o end in"):
        Sample().run(Namespace(run=tmp_path / "no run", prompt=["a"], output=tmp_path / "x.jpg"))


def reference(image: Image.Image, tmp_path: Path, area: int = 16 * 16) -> torch.Tensor:
    image.save(tmp_path / "reference.png")
    return load_reference(tmp_path / "reference.png", area, 8)


def test_a_transparent_reference_lies_on_white(tmp_path: Path) -> None:
    assert reference(Image.new("RGBA", (16, 16), (200, 0, 0, 0)), tmp_path).unique().tolist() == [255]


def test_a_reference_of_16_bits_keeps_its_greys(tmp_path: Path) -> None:
    grey = Image.fromarray(np.full((16, 16), 0x8080, dtype=np.uint16))
    assert reference(grey, tmp_path).unique().tolist() == [0x80]


@pytest.mark.parametrize("stored", [(1600, 400), (16, 4)])
def test_a_reference_has_its_own_shape_at_the_area_that_is_asked_for(stored: tuple[int, int], tmp_path: Path) -> None:
    assert reference(Image.new("RGB", stored), tmp_path, 32 * 32).shape == (3, 16, 64)


def test_a_picture_can_be_edited(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The small run's conditioner knows no pictures: it must get them, and say so."""
    Image.new("RGB", (100, 30)).save(tmp_path / "old.png")
    here("sample", run, "a", "--reference", tmp_path / "old.png", "-o", tmp_path / "new.png", code=2)
    assert "reference" in capsys.readouterr().err


def test_weights_are_kept_in_the_dtype_they_are_used_in(run: Path) -> None:
    """20 B parameters: 41 GB to draw with, not 82."""
    from qi_registry.assemble import painter
    from qi_registry.runs import read_run

    brush = painter(read_run(run, ("parallel.precision=bf16",)), run)
    assert {parameter.dtype for parameter in brush.model.parameters()} == {torch.bfloat16}
    assert brush.paint(["a"], [(16, 32)])[0].isfinite().all()
