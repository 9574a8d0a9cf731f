"""String -> ink, (H, W) from 0 to 255."""

from __future__ import annotations

from random import Random
from typing import Protocol

from attrs import field, frozen

from qi_core import QiError
from qi_core.glyphs import Bytes, Typeset
from qi_core.paragraph import SPACING, Align, fit
from qi_core.strings import pick
from qi_core.typeface import characters


class Writer(Protocol):
    """Draws strings."""

    def write(self, text: str, dice: Random) -> Bytes | None:
        """(H, W); None where the string does not fit, or no font has all of it. The font and the like are chosen by
        ``dice``."""
        ...

    def able(self, text: str) -> bool:
        """Whether one font has all of these characters."""
        ...

    def typesets(self) -> tuple[Typeset, ...]:
        """See ``Legible.typesets``."""
        ...


@frozen(kw_only=True)
class Words:
    """One line, each character in a slot."""

    faces: tuple[Typeset, ...]
    _able: tuple[frozenset[str], ...] = field(init=False)

    @_able.default
    def _sets(self) -> tuple[frozenset[str], ...]:
        return tuple(frozenset(face.characters) for face in self.faces)

    def write(self, text: str, dice: Random) -> Bytes | None:
        faces = [face for face, able in zip(self.faces, self._able, strict=True) if able.issuperset(text)]
        if not faces:
            return None
        face = faces[pick(dice, len(faces))]
        if face.jitter == 0:
            return face.mask(text)
        dx, dy = (pick(dice, 2 * face.jitter + 1) - face.jitter for _ in range(2))
        return face.mask(text, dx, dy)

    def able(self, text: str) -> bool:
        return any(able.issuperset(text) for able in self._able)

    def typesets(self) -> tuple[Typeset, ...]:
        return self.faces


@frozen(kw_only=True)
class Paragraphs:
    """Wrapped lines, as large as the picture allows."""

    height: int
    width: int
    fonts: tuple[str, ...]
    largest: int
    """Pixels an em; 0: no limit."""
    spacing: tuple[float, float] = (SPACING, SPACING)
    """Least and most, in ems."""
    aligns: tuple[Align, ...] = ("left",)
    """Each is equally frequent."""

    def write(self, text: str, dice: Random) -> Bytes | None:
        fonts = [font for font in self.fonts if characters(font).issuperset(text.replace(" ", ""))]
        if not fonts:
            return None
        font = fonts[pick(dice, len(fonts))]
        align = self.aligns[pick(dice, len(self.aligns)) if len(self.aligns) > 1 else 0]
        paragraph = fit(
            text,
            font,
            height=self.height,
            width=self.width,
            largest=self.largest or self.height,
            spacing=self.spacing,
            align=align,
        )
        return None if paragraph is None else paragraph.mask()

    def able(self, text: str) -> bool:
        return any(characters(font).issuperset(text.replace(" ", "")) for font in self.fonts)

    def typesets(self) -> tuple[Typeset, ...]:
        raise QiError("rendered-text: paragraphs cannot be read back glyph by glyph; use layout = 'word' for that")
