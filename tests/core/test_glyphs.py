"""Words in slots, and reading them back."""

from __future__ import annotations

import string

import numpy as np
import pytest
from attrs import evolve
from numpy.typing import NDArray

from qi_core import QiError, glyphs
from qi_core.glyphs import UNREAD, Reader, Typeset

LATIN = Typeset(characters=string.ascii_uppercase, height=16, width=64, shortest=1, longest=5).fitted()
CHINESE = Typeset(characters="一二人大天夫太犬木本末未土士日目白自己已", height=16, width=64, longest=4).fitted()
WORDS = ["HELLO", "QI", "IJ", "I", "WMWMW", "OQ", "LAPTO"]


def paint(
    face: Typeset,
    text: str,
    *,
    fore: tuple[float, ...] = (1.0, 1.0, 1.0),
    back: tuple[float, ...] = (-1.0, -1.0, -1.0),
    noise: float = 0.0,
    seed: int = 0,
    shift: tuple[int, int] = (0, 0),
) -> NDArray[np.float32]:
    ink = face.mask(text, *shift) / 255.0
    back_311, fore_311 = (np.array(colour)[:, None, None] for colour in (back, fore))
    picture = back_311 + ink * (fore_311 - back_311)
    return (picture + noise * np.random.default_rng(seed).normal(size=picture.shape)).astype(np.float32)


def test_every_character_fits_its_slot_whole() -> None:
    for face in (LATIN, CHINESE):
        wider = evolve(face, pitch=face.pitch + 8, height=face.height + 8)
        assert face.glyphs().shape == (len(face.characters), face.height, face.pitch)
        ink, roomy = (f.glyphs().astype(int).sum(axis=(1, 2)) for f in (face, wider))
        assert (ink == roomy).all()


def test_the_size_is_the_largest_that_fits() -> None:
    with pytest.raises(QiError, match=f"font size {LATIN.size + 1} doesn't fit; wanted at most {LATIN.size}"):
        evolve(LATIN, size=LATIN.size + 1).fitted()
    assert evolve(LATIN, size=LATIN.size - 1).fitted().size == LATIN.size - 1


def test_a_word_stands_in_the_middle_and_a_glyph_is_the_same_everywhere() -> None:
    mask = LATIN.mask("AHA")
    first, last = (mask[:, x : x + LATIN.pitch] for x in (LATIN.left(3), LATIN.left(3) + 2 * LATIN.pitch))
    assert (first == last).all()
    assert LATIN.left(3) == (64 - 3 * LATIN.pitch) // 2
    assert evolve(LATIN, align="left").left(3) == 0


def test_what_does_not_fit_is_told() -> None:
    with pytest.raises(QiError, match="wanted 1 to 5 of the characters"):
        LATIN.mask("lower")
    with pytest.raises(QiError, match="wanted 1 to 5 of the characters"):
        LATIN.mask("TOOLONG")
    with pytest.raises(QiError, match="slots of 20 pixels don't fit"):
        evolve(LATIN, pitch=20).fitted()
    with pytest.raises(QiError, match="not even 5 pixels"):
        Typeset(characters="ABC", height=2, width=64).fitted()


@pytest.mark.parametrize(("noise", "texts"), [(0.0, WORDS), (0.2, WORDS)])
def test_latin_words_are_read(noise: float, texts: list[str]) -> None:
    reader = Reader(typesets=(LATIN,))
    assert [reader.read(paint(LATIN, text, noise=noise, seed=i)).text for i, text in enumerate(texts)] == texts


@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_look_alike_chinese_characters_are_told_apart(noise: float) -> None:
    reader = Reader(typesets=(CHINESE,))
    texts = ["大天夫太", "木本末未", "土士", "己已", "日目白自", "一"]
    assert [reader.read(paint(CHINESE, text, noise=noise)).text for text in texts] == texts


@pytest.mark.parametrize(
    ("fore", "back"),
    [((-1, -1, -1), (1, 1, 1)), ((0.7, -0.9, -0.8), (1, 1, 1)), ((1, 0.8, -1), (-0.8, -0.5, 0.7))],
    ids=["black on white", "red on white", "yellow on blue"],
)
def test_colours_need_not_be_known_and_are_found(fore: tuple[float, ...], back: tuple[float, ...]) -> None:
    reading = Reader(typesets=(LATIN,)).read(paint(LATIN, "WORD", fore=fore, back=back, noise=0.1))
    assert reading.text == "WORD"
    assert reading.foreground == pytest.approx([(value + 1) * 127.5 for value in fore], abs=6)
    assert reading.background == pytest.approx([(value + 1) * 127.5 for value in back], abs=6)


def test_a_word_off_its_place_is_read_where_jitter_allows() -> None:
    loose = Typeset(characters=string.ascii_uppercase, height=16, width=64, longest=4, jitter=1).fitted()
    for shift in [(1, -1), (-1, 1), (0, 0)]:
        picture = paint(loose, "TQTQ", shift=shift)
        reading = Reader(typesets=(loose,)).read(picture)
        assert (reading.text, reading.likeness) == ("TQTQ", pytest.approx(1.0, abs=1e-3))


def test_the_right_typeset_is_found() -> None:
    reader = Reader(typesets=(LATIN, CHINESE))
    assert reader.read(paint(LATIN, "TEXT", noise=0.1)).text == "TEXT"
    assert reader.read(paint(CHINESE, "天目", noise=0.1)).text == "天目"


def test_one_wrong_character_is_read_as_it_stands() -> None:
    assert Reader(typesets=(LATIN,)).read(paint(LATIN, "HELLO")).text != "HELLA"
    picture = paint(LATIN, "HELLO")
    picture[:, :, LATIN.left(5) + 4 * LATIN.pitch :] = -1.0  # the last letter wiped away
    assert Reader(typesets=(LATIN,)).read(picture).text != "HELLO"


def test_an_empty_slot_is_no_letter_even_where_the_length_is_known() -> None:
    """Without care the glyph of least ink would be read there, and a missing I would count as one."""
    face = evolve(LATIN, shortest=4, longest=4).fitted()
    picture = paint(face, "FOXI", noise=0.05)
    picture[:, :, face.left(4) + 3 * face.pitch :] = -1.0
    assert Reader(typesets=(face,)).read(picture).text == "FOX" + UNREAD


def test_a_letter_drawn_over_is_not_legible_though_it_is_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    slot = np.s_[:, :, LATIN.left(4) + LATIN.pitch : LATIN.left(4) + 2 * LATIN.pitch]
    picture = paint(LATIN, "NLGE")
    for other in ("NKGE", "NVGE"):
        picture[slot] = np.maximum(picture, 0.75 * paint(LATIN, other) - 0.25)[slot]
    reader = Reader(typesets=(LATIN,))
    assert reader.read(picture).text == f"N{UNREAD}GE"
    monkeypatch.setattr(glyphs, "SHARP", 0.0)
    assert reader.read(picture).text == "NLGE"


def test_a_space_is_read_where_it_may_stand() -> None:
    face = Typeset(characters="AB ", height=16, width=64).fitted()
    reader = Reader(typesets=(face,))
    assert reader.read(paint(face, "A B", noise=0.1)).text == "A B"
    smudged = paint(face, "A B")
    smudged[:, 4:12, face.left(3) + face.pitch + 4 : face.left(3) + face.pitch + 12] = 0.5
    assert reader.read(smudged).text != "A B"


@pytest.mark.parametrize("level", [-1.0, 0.0, float("nan")])
def test_a_blank_picture_says_nothing(level: float) -> None:
    assert Reader(typesets=(LATIN,)).read(np.full((3, 16, 64), level, dtype=np.float32)).text == ""


def test_noise_says_nothing() -> None:
    generator = np.random.default_rng(0)
    reader = Reader(typesets=(LATIN, CHINESE))
    pictures = [generator.normal(size=(3, 16, 64)).astype(np.float32) for _ in range(20)]
    assert [reader.read(picture).text for picture in pictures] == [""] * 20


def test_a_picture_of_another_size_is_told() -> None:
    with pytest.raises(QiError, match=r"shape \(3, 8, 64\)"):
        Reader(typesets=(LATIN,)).read(np.zeros((3, 8, 64), dtype=np.float32))


def test_closeness_says_how_much_of_a_string_that_is_told_stands_there() -> None:
    reader = Reader(typesets=(LATIN, CHINESE))
    assert reader.closeness(paint(LATIN, "HELLO", fore=(0.9, -0.5, 0.1), noise=0.05), "HELLO") > 0.95
    assert reader.closeness(paint(LATIN, "HELLO"), "HALLO") == pytest.approx(0.8, abs=0.02)
    assert reader.closeness(paint(CHINESE, "未土"), "末士") < 0.05, "look-alikes are not the same"
    assert reader.closeness(np.zeros((3, 16, 64), dtype=np.float32), "HELLO") == 0.0
    with pytest.raises(QiError, match="no typeset can draw it"):
        reader.closeness(paint(LATIN, "HELLO"), "hello")


def test_closeness_finds_a_string_that_stands_off_its_place() -> None:
    loose = evolve(LATIN, jitter=2, pitch=0, size=0).fitted()
    moved = paint(loose, "QI", shift=(2, -1))
    assert Reader(typesets=(loose,)).closeness(moved, "QI") > 0.99
    assert Reader(typesets=(evolve(loose, jitter=0),)).closeness(moved, "QI") < 0.9


def test_a_blot_is_no_letter_however_much_ink_the_letter_has() -> None:
    blot = paint(LATIN, "MMM")
    start = LATIN.left(3) + LATIN.pitch
    blot[:, 3:13, start : start + LATIN.pitch] = 1.0
    assert Reader(typesets=(LATIN,)).closeness(blot, "MMM") < 0.72
