"""Evaluation ``glyph-match``: right strings count, all others don't, and nobody tells the reader."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

import pytest
import torch
from attrs import frozen
from torch import Tensor

from qi_core import Painter, Place, QiError, Samples
from qi_plugins.eval_glyphs.component import GlyphMatch
from qi_plugins.eval_glyphs.matching import Matching
from qi_plugins.source_text.component import RenderedText

COLOURS = ("white", "red", "yellow", "black", "blue")
STRINGS = RenderedText(split="held-out", alphabet="both", foreground=COLOURS, background=COLOURS)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(device=torch.device("cpu"), dtype=torch.float32, seed=5, folder=tmp_path)


@frozen
class Hand:
    """Stands for a model: paints the true picture of each prompt, changed by ``spoil``."""

    truth: dict[str, Tensor]
    spoil: Callable[[Tensor], Tensor]

    def paint(self, prompts: Sequence[str], sizes: Sequence[tuple[int, int]], *, whole: bool) -> list[Tensor]:
        assert whole, "what is scored must have no seams"
        images = [self.spoil(self.truth[prompt].float() / 127.5 - 1) for prompt in prompts]
        assert [image.shape[1:] for image in images] == list(sizes)
        return images


def painter(place: Place, source: RenderedText, spoil: Callable[[Tensor], Tensor] = lambda image: image) -> Painter:
    samples = source.build(place, 1).draw(64)
    return cast(Painter, Hand({sample.prompt: sample.image for sample in samples}, spoil))


def evaluation(place: Place, source: Any = STRINGS, **settings: Any) -> Matching:
    return GlyphMatch(source=source, count=40, **settings).build(place)


def test_true_pictures_are_all_right(place: Place) -> None:
    found = evaluation(place, every=10).evaluate(painter(place, STRINGS), step=7)
    assert (found.step, found.name) == (7, "glyph-match")
    assert {name: found.scalars[name] for name in ("exact", "right", "colour", "characters")} == {
        "exact": 1.0,
        "right": 1.0,
        "colour": 1.0,
        "characters": 1.0,
    }


def test_noise_is_forgiven(place: Place) -> None:
    generator = torch.Generator().manual_seed(0)
    noisy = painter(place, STRINGS, lambda image: image + 0.2 * torch.randn(image.shape, generator=generator))
    assert evaluation(place).evaluate(noisy, 0).scalars["exact"] >= 0.95


def test_wrong_colours_are_told_apart_from_wrong_words(place: Place) -> None:
    scalars = evaluation(place).evaluate(painter(place, STRINGS, lambda image: -image), 0).scalars
    assert scalars["right"] == 1.0
    assert scalars["colour"] < 0.3
    assert scalars["exact"] <= scalars["colour"]


def test_one_letter_gone_makes_the_word_wrong(place: Place) -> None:
    four = RenderedText(split="held-out", lengths=(4, 4))

    def wiped(image: Tensor) -> Tensor:
        return torch.cat([image[:, :, :48], torch.full((3, 16, 16), -1.0)], dim=2)

    scalars = evaluation(place, four).evaluate(painter(place, four, wiped), 0).scalars
    assert scalars["right"] == 0.0
    assert scalars["characters"] >= 0.75


@pytest.mark.parametrize("spoil", [torch.zeros_like, torch.randn_like], ids=["blank", "noise"])
def test_pictures_without_words_are_all_wrong(place: Place, spoil: Callable[[Tensor], Tensor]) -> None:
    found = evaluation(place).evaluate(painter(place, STRINGS, spoil), 0)
    assert found.scalars["right"] == found.scalars["exact"] == found.scalars["colour"] == 0.0
    assert "(nothing legible)" in found.pictures[0].caption


def test_pictures_of_other_words_are_wrong(place: Place) -> None:
    source = RenderedText(split="held-out", lengths=(3, 4))
    truth = {sample.prompt: sample.image for sample in source.build(place, 1).draw(64)}
    shuffled = dict(zip(truth, [*list(truth.values())[1:], next(iter(truth.values()))], strict=True))
    found = evaluation(place, source).evaluate(cast(Painter, Hand(shuffled, lambda image: image)), 0)
    assert found.scalars["right"] <= 0.05
    assert found.scalars["colour"] == 1.0


def test_pictures_show_what_was_asked_and_what_was_read(place: Place) -> None:
    source = RenderedText(split="held-out", lengths=(4, 4))
    first = next(iter(source.build(place, 1).draw(1)))
    good = evaluation(place, source, shown=3).evaluate(painter(place, source), 0)
    assert len(good.pictures) == 3
    assert good.pictures[0].caption == f"{first.prompt} ✓"
    flipped = evaluation(place, source).evaluate(painter(place, source, lambda image: image.flip(2)), 0)
    assert f"{first.prompt} × " in flipped.pictures[0].caption


def test_the_strings_are_the_same_every_time(place: Place) -> None:
    assert evaluation(place).tasks == evaluation(place).tasks


def test_two_evaluations_can_go_by_two_names(place: Place) -> None:
    assert evaluation(place, title="chinese").evaluate(painter(place, STRINGS), 0).name == "chinese"


@frozen
class Silent:
    """A source that cannot be read back."""

    gives: ClassVar[type] = Samples

    def build(self, place: Place, multiple: int) -> object:
        return object()


def test_a_source_that_cannot_be_read_back_is_told(place: Place, tmp_path: Path) -> None:
    with pytest.raises(QiError, match="Silent cannot be read back"):
        evaluation(place, Silent())
    (tmp_path / "lines.txt").write_text("some words")
    paragraphs = RenderedText(text=tmp_path / "lines.txt", layout="paragraph", height=64, held_out=0.0)
    with pytest.raises(QiError, match="layout = 'word'"):
        evaluation(place, paragraphs)


def test_characters_that_look_the_same_are_told(place: Place) -> None:
    twins = RenderedText(letters="A\u00a0 ", lengths=(3, 3), split="held-out", held_out=0.5)
    with pytest.raises(QiError, match="must differ in their glyphs"):
        evaluation(place, twins)


def test_the_settings_need_no_torch() -> None:
    code = "import sys, qi_plugins.eval_glyphs.component; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
