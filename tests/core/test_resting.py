"""A conditioner that is in memory only while it is asked answers as one that always is."""

from __future__ import annotations

import weakref

import pytest
import torch

from qi_core.errors import QiError
from qi_core.resting import Resting
from qi_core.testing.encoders import check_conditioner
from qi_core.testing.fakes import Letters, PicturedLetters


class Shelf:
    """Counts how often a conditioner is loaded, and knows whether it is still there."""

    def __init__(self, kind: type[Letters] = Letters) -> None:
        self.kind, self.loaded = kind, list[weakref.ref[Letters]]()

    def load(self) -> Letters:
        made = self.kind()
        self.loaded.append(weakref.ref(made))
        return made

    def resting(self, width: int = 4) -> Resting:
        return Resting(self.load, width, torch.device("cpu"))


def test_it_behaves_as_a_conditioner() -> None:
    check_conditioner(Shelf().resting())
    check_conditioner(Shelf(PicturedLetters).resting(), references=True)


def test_it_is_loaded_by_a_question_that_is_new_and_let_go_of_at_rest() -> None:
    shelf = Shelf()
    asleep = shelf.resting()
    assert asleep.width == 4
    assert not shelf.loaded, "its width is known before it is loaded"
    first = asleep.encode(["ab", ""])
    assert len(shelf.loaded) == 1
    asleep.rest()
    assert shelf.loaded[0]() is None
    again = asleep.encode(["ab", ""])
    assert len(shelf.loaded) == 1, "the prompts of a preview are the same every time"
    assert torch.equal(again.text, first.text)
    assert again.lengths == first.lengths
    asleep.encode(["ab"])
    assert len(shelf.loaded) == 2, "kept by call: the last bit may depend on who shares it"


def test_pictures_are_asked_about_every_time() -> None:
    shelf = Shelf(PicturedLetters)
    asleep, dark, light = shelf.resting(), torch.zeros(3, 2, 2), torch.full((3, 2, 2), 255.0)
    assert not torch.equal(asleep.encode(["a"], [[dark]]).text, asleep.encode(["a"], [[light]]).text)
    asleep.rest()
    asleep.encode(["a"], [[light]])
    assert len(shelf.loaded) == 2


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qi_core.resting.MOST", 3 * 4 * 4)  # three tokens
    shelf = Shelf()
    asleep = shelf.resting()
    for prompt in ("a", "b", "long beyond all bounds"):
        asleep.encode([prompt])
        asleep.rest()
    asleep.encode(["b"])
    assert len(shelf.loaded) == 4, "the last one alone was too much"


def test_another_width_than_was_told_is_refused() -> None:
    with pytest.raises(QiError, match=r"a width of 5, and 4 was loaded"):
        Shelf().resting(width=5).encode(["a"])
