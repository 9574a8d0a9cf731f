"""A colour font: which characters it has pictures of, and the pictures."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from attrs import field, frozen
from PIL import Image, ImageDraw, ImageFont

from qi_core import typeface
from qi_core.alike import Alike
from qi_core.errors import QiError
from qi_core.pixels import Unusable
from qi_plugins.source_emoji.joining import Joiner, copied

SYSTEM = ("NotoColorEmoji", "Apple Color Emoji", "seguiemj")
"""Names of the files of the usual ones: Noto Color Emoji, Apple's, Segoe UI Emoji."""
APPLES = Path("/System/Library/Fonts/Apple Color Emoji.ttc")
"""A collection, which ``typeface`` does not look for."""
LARGEST = 512
"""Pixels an em at which layers are drawn before they are scaled down."""


@frozen
class Drawn:
    """A glyph on nothing, colours multiplied by opacity."""

    colour: Image.Image
    """RGB."""
    opacity: Image.Image
    """Of the same size, 0 to 255."""


@frozen(eq=False)
class ColourFont:
    """An open colour font."""

    path: Path
    characters: frozenset[str]
    """Those that it has a colour glyph for."""
    strikes: tuple[int, ...]
    """Sizes of its bitmaps in pixels an em, ascending; none if it is drawn of layers at any size."""
    joined: Mapping[str, str] = field(factory=dict, repr=False)
    """Emoji of several characters that it draws as one glyph, and by which character of ``copy``."""
    copy: bytes = field(default=b"", repr=False)
    """The font as it is drawn from, where that is not the file itself."""

    def draws(self, text: str) -> bool:
        """Whether it has a colour glyph for an emoji of one or several characters."""
        return text in self.characters or text in self.joined

    @lru_cache(maxsize=256)  # noqa: B019 - fonts live as long as their sources
    def draw(self, text: str, size: int) -> Drawn:
        """About ``size`` pixels high: from the nearest larger bitmap, else from the largest. Raises Unusable where
        nothing comes of it.

        Pillow blends glyphs into what is there, so they are drawn on black and on white: with colour C and opacity a,
        what is seen is C a on black and C a + 1 - a on white.
        """
        em = next((strike for strike in self.strikes if strike >= size), self.strikes[-1] if self.strikes else 0)
        em = em or min(size, LARGEST)
        character, font = self.joined.get(text, text), _loaded(self, em, threading.get_ident())
        try:
            black, white = (_on(ground, character, font, em) for ground in ("black", "white"))
        except OSError as error:
            raise Unusable("glyph cannot be drawn", str(error)) from error
        on_black, on_white = (np.asarray(picture).astype(np.int16) for picture in (black, white))
        opacity = Image.fromarray((255 - (on_white - on_black).mean(axis=2)).round().clip(0, 255).astype(np.uint8))
        box = opacity.getbbox()
        if box is None:
            raise Unusable("glyph is empty", " ".join(f"U+{ord(each):04X}" for each in text))
        return Drawn(black.crop(box), opacity.crop(box))


@lru_cache(maxsize=16)  # Pillow keeps the font's bytes in each: megabytes
def _loaded(font: ColourFont, em: int, thread: int) -> ImageFont.FreeTypeFont:
    """One a thread: FreeType's faces are not to be shared."""
    typeface.refuse_changed(font.path)
    try:
        stored = io.BytesIO(font.copy) if font.copy else str(font.path)
        return ImageFont.truetype(stored, em, layout_engine=ImageFont.Layout.BASIC)
    except OSError as error:
        raise QiError(
            f"font {font.path}: cannot be drawn at {em} pixels ({error}); name another colour font"
        ) from error


def _on(ground: str, character: str, font: ImageFont.FreeTypeFont, em: int) -> Image.Image:
    canvas = Image.new("RGB", (3 * em, 3 * em), ground)
    ImageDraw.Draw(canvas).text((em, em), character, font=font, fill="black", embedded_color=True)
    return canvas


def locate(font: str) -> Path:
    """The font's file. Raises QiError if there is none."""
    if font != "system":
        return typeface.locate(font)
    for name in SYSTEM:
        if path := typeface.found().get(name.lower()):
            return path
    if APPLES.is_file():
        return APPLES
    raise QiError(
        "source emoji: no colour font is installed (looked for Noto Color Emoji, Apple Color Emoji and Segoe UI "
        "Emoji); install one (Debian: fonts-noto-color-emoji), or set 'font' to a file"
    )


def read(font: str, sequences: Iterable[str] = ()) -> ColourFont:
    """``sequences``: emoji of several characters that are to be drawn, where the font joins them. A source that is
    built anew beside another has the same font: it takes seconds to read, and each of its faces megabytes. Raises
    QiError if it is no colour font that can be drawn."""
    path, wanted = locate(font), tuple(sequences)
    return _ALIKE.get((path, typeface.content(path), wanted), lambda: _read(path, wanted))


_ALIKE = Alike[ColourFont]()


def _read(path: Path, sequences: Iterable[str]) -> ColourFont:
    from fontTools.ttLib import TTFont, TTLibError  # type: ignore[import-untyped]

    try:
        with path.open("rb") as stream, TTFont(stream, fontNumber=0, lazy=True) as file:
            glyphs, strikes = _coloured(file, path)
            found = {chr(code) for code, glyph in (file.getBestCmap() or {}).items() if glyph in glyphs}
            joiner = Joiner.of(file)
            whole = {text: glyph for text in sequences if (glyph := joiner.glyph(text)) and glyph in glyphs}
        copy, given = _copied(path, whole.values()) if whole else (b"", {})
    except (TTLibError, OSError, AssertionError, ValueError, KeyError, IndexError, AttributeError) as error:
        raise QiError(
            f"font {path}: cannot be read ({type(error).__name__}: {error}); wanted a TrueType or OpenType font"
        ) from error
    return ColourFont(path, frozenset(found), strikes, {text: given[glyph] for text, glyph in whole.items()}, copy)


def _copied(path: Path, glyphs: Iterable[str]) -> tuple[bytes, dict[str, str]]:
    """Of the file opened anew: tables that were looked into would be written anew too."""
    from fontTools.ttLib import TTFont

    with path.open("rb") as stream, TTFont(stream, fontNumber=0, lazy=True) as file:
        return copied(file, glyphs)


def _coloured(file: Any, path: Path) -> tuple[set[str], tuple[int, ...]]:
    """Glyphs with colours, and the sizes of bitmaps."""
    if "CBLC" in file:
        sizes = {strike.bitmapSizeTable.ppemY: strike for strike in file["CBLC"].strikes}
        named = {name for strike in sizes.values() for table in strike.indexSubTables for name in table.names}
        return named, tuple(sorted(sizes))
    if "sbix" in file:
        strikes = file["sbix"].strikes
        drawn = {name for strike in strikes.values() for name, glyph in strike.glyphs.items() if glyph.imageData}
        return drawn, tuple(sorted(strikes))
    if "COLR" in file:
        table = file["COLR"]
        if table.version == 0:
            return set(table.ColorLayers), ()
        records = table.table.BaseGlyphRecordArray
        if records is not None and records.BaseGlyphRecord:
            return {record.BaseGlyph for record in records.BaseGlyphRecord}, ()
    has = next((name for name in ("COLR version 1", "SVG ") if name.split(" ")[0].ljust(4) in file), "no colours")
    raise QiError(
        f"font {path}: it has {has.strip()}; wanted bitmaps (CBDT or sbix) or layers (COLR version 0), which alone can "
        "be drawn; name another, such as the bitmap form of Noto Color Emoji"
    )
