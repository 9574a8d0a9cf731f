"""Source ``emoji``: on colour fonts that are built here, of layers and of bitmaps."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fontTools.fontBuilder import FontBuilder
from fontTools.misc import sstruct
from fontTools.pens.ttGlyphPen import TTGlyphPen
from fontTools.ttLib import newTable
from fontTools.ttLib.tables.BitmapGlyphMetrics import SmallGlyphMetrics
from fontTools.ttLib.tables.C_B_D_T_ import cbdt_bitmap_format_17
from fontTools.ttLib.tables.E_B_L_C_ import (
    BitmapSizeTable,
    SbitLineMetrics,
    eblc_index_sub_table_1,
    sbitLineMetricsFormat,
)
from fontTools.ttLib.tables.E_B_L_C_ import Strike as BitmapStrike
from fontTools.ttLib.tables.sbixGlyph import Glyph as SbixGlyph
from fontTools.ttLib.tables.sbixStrike import Strike
from PIL import Image

from qi_core import Place, QiError, Sample, typeface
from qi_core.colours import NAMED
from qi_core.testing import check_component, check_source
from qi_plugins.source_emoji import font as fonts
from qi_plugins.source_emoji.component import Emoji

CHARACTERS = "😀😎🍎🌵🐶🚗🚀🦊🧊☀♥"
SKINS = ("flags", "keycaps", "others", "skin-tones")
RED, BLUE = (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)


def box(left: int, bottom: int, right: int, top: int) -> Any:
    pen = TTGlyphPen(None)
    pen.moveTo((left, bottom))
    for corner in ((left, top), (right, top), (right, bottom)):
        pen.lineTo(corner)
    pen.closePath()
    return pen.glyph()


def builder(characters: str, glyphs: dict[str, Any]) -> FontBuilder:
    made = FontBuilder(1000, isTTF=True)
    made.setupGlyphOrder([".notdef", *glyphs])
    made.setupCharacterMap({ord(c): f"u{ord(c):X}" for c in characters})
    made.setupGlyf({".notdef": box(0, 0, 500, 500), **glyphs})
    made.setupHorizontalMetrics(dict.fromkeys((".notdef", *glyphs), (1000, 0)))
    made.setupHorizontalHeader(ascent=800, descent=-200)
    made.setupNameTable({"familyName": "Test", "styleName": "Regular"})
    made.setupOS2()
    made.setupPost()
    return made


def layered(path: Path, characters: str = CHARACTERS, version: int = 0) -> str:
    """Each character a red square with a blue lower half."""
    glyphs = {f"u{ord(c):X}": box(0, 0, 800, 800) for c in characters}
    made = builder(characters, {**glyphs, "whole": box(0, 0, 800, 800), "half": box(0, 0, 800, 400)})
    if version == 0:
        made.setupCOLR({name: [("whole", 0), ("half", 1)] for name in glyphs})
    else:
        made.setupCOLR(
            {
                name: {"Format": 10, "Paint": {"Format": 2, "PaletteIndex": 0, "Alpha": 1}, "Glyph": "whole"}
                for name in glyphs
            },
            version=1,
        )
    made.setupCPAL([[(*RED, 1.0), (*BLUE, 1.0)]])
    made.save(path)
    return str(path)


def ring(size: int) -> bytes:
    """A green PNG with a hole in its middle."""
    picture = Image.new("RGBA", (size, size), (0, 200, 0, 255))
    picture.paste((0, 0, 0, 0), (size // 4, size // 4, 3 * size // 4, 3 * size // 4))
    png = io.BytesIO()
    picture.save(png, "PNG")
    return png.getvalue()


def as_apple(path: Path, sizes: tuple[int, ...]) -> str:
    """sbix: a PNG a glyph and size."""
    names = [f"u{ord(c):X}" for c in CHARACTERS]
    made = builder(CHARACTERS, {name: box(0, 0, 1000, 1000) for name in names})
    table = newTable("sbix")
    table.version, table.flags = 1, 1
    for size in sizes:
        table.strikes[size] = strike = Strike(ppem=size, resolution=72)
        for name in made.font.getGlyphOrder():
            kind, data = ("png ", ring(size)) if name in names else (None, None)
            strike.glyphs[name] = SbixGlyph(glyphName=name, graphicType=kind, imageData=data)
    made.font["sbix"] = table
    made.save(path)
    return str(path)


def as_noto(path: Path, sizes: tuple[int, ...]) -> str:
    """CBDT: bitmaps and no outlines at all."""
    names = [f"u{ord(c):X}" for c in CHARACTERS]
    made = builder(CHARACTERS, {name: box(0, 0, 1000, 1000) for name in names})
    font = made.font
    del font["glyf"], font["loca"]
    font["CBDT"], font["CBLC"] = data, places = newTable("CBDT"), newTable("CBLC")
    data.version = places.version = 3.0
    data.strikeData, places.strikes = [], []
    for size in sizes:
        metrics = SmallGlyphMetrics()
        metrics.height = metrics.width = metrics.Advance = size
        metrics.BearingX, metrics.BearingY = 0, size
        glyphs = {}
        for name in names:
            glyphs[name] = cbdt_bitmap_format_17(b"", font)
            glyphs[name].metrics, glyphs[name].imageData = metrics, ring(size)
        data.strikeData.append(glyphs)
        line = SbitLineMetrics()
        for key in sstruct.getformat(sbitLineMetricsFormat)[1]:
            setattr(line, key, 0)
        line.ascender = line.widthMax = size
        strike = BitmapStrike()
        about = strike.bitmapSizeTable = BitmapSizeTable()
        about.hori = about.vert = line
        about.ppemX = about.ppemY = size
        about.colorRef, about.bitDepth, about.flags = 0, 32, 1
        about.startGlyphIndex, about.endGlyphIndex = 1, len(names)
        table = eblc_index_sub_table_1(b"", font)
        table.names, table.indexFormat, table.imageFormat, table.imageDataOffset = names, 1, 17, 0
        table.firstGlyphIndex, table.lastGlyphIndex = 1, len(names)
        strike.indexSubTables = [table]
        places.strikes.append(strike)
    made.save(path)
    return str(path)


WOMAN, JOINER, ROCKET, ASTRONAUT = "👩", "\u200d", "🚀", "👩\u200d🚀"
GERMANY, FRANCE, KEY, HAND = "🇩🇪", "🇫🇷", "1\ufe0f\u20e3", "👍🏽"


def joining(path: Path) -> str:
    """Red squares; what is joined is blue: an astronaut, a flag, a keycap and a hand, each by a ligature of its own."""
    characters = "".join(dict.fromkeys([*(WOMAN + JOINER + ROCKET + GERMANY + FRANCE + HAND), "1", "\u20e3"]))
    single = {f"u{ord(c):X}": box(0, 0, 800, 800) for c in characters}
    joined = {name: box(0, 0, 800, 800) for name in ("astronaut", "germany", "key", "hand")}
    made = builder(characters, {**single, **joined, "whole": box(0, 0, 800, 800)})
    made.setupCOLR({name: [("whole", int(name in joined))] for name in (*single, *joined)})
    made.setupCPAL([[(*RED, 1.0), (*BLUE, 1.0)]])
    rules = {"astronaut": ASTRONAUT, "germany": GERMANY, "key": KEY.replace("\ufe0f", ""), "hand": HAND}
    told = [f"sub {' '.join(f'u{ord(c):X}' for c in text)} by {name};" for name, text in rules.items()]
    made.addOpenTypeFeatures(f"feature ccmp {{ {' '.join(told)} }} ccmp;")
    made.save(path)
    return str(path)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(device=torch.device("cpu"), dtype=torch.float32, seed=7, folder=tmp_path)


def drawn(settings: Emoji, place: Place, count: int) -> list[Sample]:
    return list(settings.build(place, 8).draw(count))


def test_it_is_a_component_and_a_source(tmp_path: Path) -> None:
    check_component(Emoji)
    check_source(Emoji(font=layered(tmp_path / "a.ttf"), held_out=0.3, sizes=(0.5, 1), position="anywhere"), count=14)


def test_layers_are_drawn_where_and_how_large_it_is_asked(tmp_path: Path, place: Place) -> None:
    """A red square over a blue half, 80 % of 40 pixels high, on yellow."""
    settings = Emoji(font=layered(tmp_path / "a.ttf"), height=40, width=56, background=("yellow",), held_out=0)
    sample = drawn(settings, place, 1)[0]
    pixels = sample.image.permute(1, 2, 0).numpy()
    assert pixels.shape == (40, 56, 3)
    assert tuple(pixels[2, 2]) == NAMED["yellow"]
    assert (tuple(pixels[12, 28]), tuple(pixels[28, 28])) == ((255, 0, 0), (0, 0, 255))
    rows = np.flatnonzero((pixels != NAMED["yellow"]).any(axis=(1, 2)))
    columns = np.flatnonzero((pixels != NAMED["yellow"]).any(axis=(0, 2)))
    assert abs(rows[0] - 4) <= 1
    assert abs(rows[-1] - 35) <= 1
    assert abs((columns[0] + columns[-1]) / 2 - 27.5) <= 1


@pytest.mark.parametrize("font", [as_apple, as_noto])
def test_bitmaps_are_scaled_from_the_nearest_larger_one_and_let_the_ground_through(
    font: Callable[[Path, tuple[int, ...]], str], tmp_path: Path, place: Place
) -> None:
    path = font(tmp_path / "a.ttf", (32, 64))
    assert [fonts.read(path).draw("🍎", size).colour.height for size in (20, 40, 90)] == [32, 64, 64]
    settings = Emoji(font=path, height=40, width=40, padding=0, background=("pink",), held_out=0)
    pixels = drawn(settings, place, 1)[0].image.permute(1, 2, 0).numpy()
    assert tuple(pixels[4, 4]) == (0, 200, 0)
    assert tuple(pixels[20, 20]) == NAMED["pink"]
    dark = pixels.astype(int).sum(axis=2) < 190  # a seam between the two would be darker than both
    assert not dark.any()


def test_each_comes_once_in_an_epoch_under_its_name(tmp_path: Path, place: Place) -> None:
    settings = Emoji(font=layered(tmp_path / "a.ttf"), held_out=0, groups=("faces", "transport", "symbols"))
    samples = drawn(settings, place, 12)
    names = [sample.prompt.removesuffix(", an emoji on a white background") for sample in samples]
    assert Counter(names) == dict.fromkeys(
        ("grinning face", "smiling face with sunglasses", "automobile", "rocket", "sun", "heart suit"), 2
    )
    assert len(set(names[:6])) == 6
    assert {s.category for s in samples} == {"faces", "transport", "symbols"}


def test_captions_are_in_the_language_of_their_template(tmp_path: Path, place: Place) -> None:
    font = layered(tmp_path / "a.ttf", "🍎")
    plain = Emoji(font=font, held_out=0, languages=("en", "zh"), background=("red",))
    assert {s.prompt for s in drawn(plain, place, 20)} == {
        "red apple, an emoji on a red background",
        "红色背景上的表情符号：红苹果",
    }
    own = Emoji(font=font, held_out=0, templates=("a sticker of a {name}", "贴纸：{name}"))
    assert {s.prompt for s in drawn(own, place, 20)} == {"a sticker of a red apple", "贴纸：红苹果"}


def test_what_is_held_out_is_never_trained_on(tmp_path: Path, place: Place) -> None:
    font = layered(tmp_path / "a.ttf")
    splits = [
        {s.prompt for s in drawn(Emoji(font=font, held_out=0.4, split=split), place, 40)}
        for split in ("train", "held-out")
    ]
    assert splits[0]
    assert splits[1]
    assert not splits[0] & splits[1]
    assert len(splits[0] | splits[1]) == len(CHARACTERS)


def test_an_empty_glyph_is_told_and_another_emoji_stands_in(tmp_path: Path, place: Place) -> None:
    """The same one every time, and no sample is missing."""
    made = builder(
        "😀🍎",
        {name: box(0, 0, 800, 800) for name in ("u1F600", "u1F34E", "whole")} | {"none": TTGlyphPen(None).glyph()},
    )
    made.setupCOLR({"u1F600": [("whole", 0)], "u1F34E": [("none", 0)]})
    made.setupCPAL([[(*RED, 1.0)]])
    made.save(tmp_path / "a.ttf")
    source = Emoji(font=str(tmp_path / "a.ttf"), held_out=0).build(place, 8)
    assert {s.prompt for s in source.draw(6)} == {"grinning face, an emoji on a white background"}
    assert source.report()["glyph is empty"] >= 1
    assert "U+1F34E" in (tmp_path / "skipped.jsonl").read_text()


@pytest.mark.parametrize(
    ("font", "wanted"),
    [
        ("noto-sans-sc", "no colours; wanted bitmaps"),
        ("version 1", "COLR version 1; wanted bitmaps"),
        ("nothing", "no such file"),
        ("letters", "no emoji to draw in groups"),
        ("rubbish", "cannot be read"),
        ("system", "no colour font is installed"),
    ],
)
def test_a_font_that_will_not_do_is_told_in_one_line(
    font: str, wanted: str, tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fonts, "SYSTEM", ())
    monkeypatch.setattr(fonts, "APPLES", tmp_path / "none")
    (tmp_path / "rubbish").write_bytes(b"\0\1\0\0" + b"\xff" * 4000)
    made = {
        "version 1": lambda: layered(tmp_path / "v.ttf", version=1),
        "letters": lambda: layered(tmp_path / "l.ttf", "AB"),
    }
    path = made[font]() if font in made else str(tmp_path / "rubbish") if font == "rubbish" else font
    with pytest.raises(QiError, match=wanted) as error:
        Emoji(font=path).build(place, 8)
    assert "\n" not in str(error.value)


# --- emoji of several characters ---


def test_what_the_font_joins_is_drawn_as_its_one_glyph_and_the_rest_is_left_out_and_counted(
    tmp_path: Path, place: Place
) -> None:
    settings = Emoji(font=joining(tmp_path / "a.ttf"), held_out=0, padding=0, height=16, width=16, joined=SKINS)
    source = settings.build(place, 8)
    samples = {s.prompt.removesuffix(", an emoji on a white background"): s for s in source.draw(7)}
    colours = {name: tuple(sample.image[:, 8, 8].tolist()) for name, sample in samples.items()}
    red, blue = (255, 0, 0), (0, 0, 255)
    assert colours == {
        "woman": red,
        "rocket": red,
        "thumbs up": red,
        "woman astronaut": blue,
        "flag: Germany": blue,
        "keycap 1": blue,
        "thumbs up, medium skin tone": blue,
    }
    assert source.report()["no one glyph in the font"] > 2000, "France among them, whose letters are there"
    assert {samples["flag: Germany"].category, samples["keycap 1"].category} == {"symbols"}


def test_which_of_them_is_asked_for(tmp_path: Path, place: Place) -> None:
    font = joining(tmp_path / "a.ttf")
    assert len(Emoji(font=font, held_out=0, joined=()).build(place, 8).emoji) == 3
    assert len(Emoji(font=font, held_out=0).build(place, 8).emoji) == 6
    flags = Emoji(font=font, held_out=0, joined=("flags",), languages=("zh",), groups=("symbols",))
    assert {s.prompt for s in drawn(flags, place, 3)} == {"白色背景上的表情符号：旗：德国"}


def test_sources_that_are_alike_have_one_font(tmp_path: Path, place: Place) -> None:
    """As while a curriculum goes from one to another: a copy of the font and its faces are megabytes."""
    font = joining(tmp_path / "a.ttf")
    one, two, other = (
        Emoji(font=font, held_out=0, padding=p, joined=j) for p, j in ((0, SKINS), (0.1, SKINS), (0, ()))
    )
    first = one.build(place, 8)
    assert two.build(place, 8).font is first.font
    assert other.build(place, 8).font is not first.font


def test_an_emoji_is_held_out_in_all_skin_tones_or_in_none(tmp_path: Path, place: Place) -> None:
    """What the model is never shown it would know by another."""
    font = joining(tmp_path / "a.ttf")
    for part in (0.1, 0.3, 0.5, 0.7, 0.9):
        texts = {each.text for each in Emoji(font=font, held_out=part, joined=SKINS).build(place, 8).emoji}
        assert (HAND in texts) == (HAND[0] in texts)


def test_a_resume_notices_another_font(tmp_path: Path, place: Place) -> None:
    """Going on with what is there begins the next epoch."""
    path = tmp_path / "a.ttf"
    layered(path)
    source = Emoji(font=str(path), held_out=0).build(place, 8)
    source.draw(14)
    kept = source.state_dict()
    layered(path, CHARACTERS[:3])
    typeface.content.cache_clear()  # as in another process
    with pytest.raises(QiError, match=r"^source: font '.*a.ttf' changed since the checkpoint; put back"):
        Emoji(font=str(path), held_out=0).build(place, 8).load_state_dict(kept)
    after = Emoji(font=str(path), held_out=0, changed="next-epoch").build(place, 8)
    after.load_state_dict(kept)
    assert after.state_dict()["n"] == 6, "two epochs of three"
    assert len({sample.prompt for sample in after.draw(3)}) == 3
