"""Emoji of several characters: which of them a font draws as one glyph, by its own substitutions (OpenType's GSUB).

Pillow draws characters, and only with Raqm joins them, which is not on every machine. So the glyphs that a font joins
get characters of the private use area in a copy of it, and are drawn by these: the same everywhere.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from typing import Any

from attrs import frozen

FEATURES = ("ccmp", "rlig", "liga", "clig")
"""What is applied without being asked for."""
PRIVATE = 0xF0000
"""First character of the private use area that the copy's glyphs get (plane 15)."""
VARIANT = "\ufe0f"
"""Asks for the colour picture of a character that is text by default (Unicode TR 51)."""

Ligatures = Mapping[str, list[tuple[tuple[str, ...], str]]]
"""First glyph -> the glyphs that follow it, and the one that stands for all of them; those tried first come first."""


@frozen(eq=False)
class Joiner:
    """Applies a font's ligatures and single substitutions. A sequence that needs more, such as one by its context, does
    not become one glyph here, and is left out."""

    characters: Mapping[int, str]
    steps: tuple[Ligatures, ...]

    @staticmethod
    def of(file: Any) -> Joiner:
        """``file``: an open TTFont."""
        characters = file.getBestCmap() or {}
        if "GSUB" not in file or not file["GSUB"].table.FeatureList:
            return Joiner(characters, ())
        table = file["GSUB"].table
        records = [record for record in table.FeatureList.FeatureRecord if record.FeatureTag in FEATURES]
        numbers = sorted({number for record in records for number in record.Feature.LookupListIndex})
        found = (_ligatures(table.LookupList.Lookup[number]) for number in numbers)
        return Joiner(characters, tuple(step for step in found if step))

    def glyph(self, text: str) -> str | None:
        """The one glyph that the text becomes; None if it becomes several, or a character has none."""
        for tried in dict.fromkeys((text, text.replace(VARIANT, ""))):
            glyphs = [self.characters.get(ord(character)) for character in tried]
            if None in glyphs:
                continue
            joined: list[str] = [glyph for glyph in glyphs if glyph]
            for step in self.steps:
                joined = _applied(step, joined)
            if len(joined) == 1:
                return joined[0]
        return None


def _ligatures(lookup: Any) -> Ligatures:
    """Of a lookup of single substitutions (type 1) or ligatures (type 4); nothing of others."""
    found: dict[str, list[tuple[tuple[str, ...], str]]] = {}
    for each in lookup.SubTable:
        table = getattr(each, "ExtSubTable", each)
        for first, glyph in getattr(table, "mapping", {}).items() if table.LookupType == 1 else ():
            found.setdefault(first, []).append(((), glyph))
        for first, several in getattr(table, "ligatures", {}).items():
            found.setdefault(first, []).extend((tuple(one.Component), one.LigGlyph) for one in several)
    return found


def _applied(step: Ligatures, glyphs: list[str]) -> list[str]:
    joined: list[str] = []
    at = 0
    while at < len(glyphs):
        for rest, glyph in step.get(glyphs[at], ()):
            if tuple(glyphs[at + 1 : at + 1 + len(rest)]) == rest:
                joined.append(glyph)
                at += 1 + len(rest)
                break
        else:
            joined.append(glyphs[at])
            at += 1
    return joined


def copied(file: Any, glyphs: Iterable[str]) -> tuple[bytes, dict[str, str]]:
    """A copy of an open font in which each of these glyphs has a character, and which. All else is as it was."""
    from fontTools.ttLib import newTable  # type: ignore[import-untyped]
    from fontTools.ttLib.tables._c_m_a_p import CmapSubtable  # type: ignore[import-untyped]

    given = {glyph: chr(PRIVATE + number) for number, glyph in enumerate(dict.fromkeys(glyphs))}
    names = dict(file.getBestCmap() or {}) | {ord(character): glyph for glyph, character in given.items()}
    table = newTable("cmap")
    table.tableVersion = 0
    inner = CmapSubtable.newSubtable(12)
    inner.platformID, inner.platEncID, inner.language, inner.cmap = 3, 10, 0, names
    table.tables = [inner]
    file["cmap"] = table
    content = io.BytesIO()
    file.save(content, reorderTables=None)
    return content.getvalue(), given
