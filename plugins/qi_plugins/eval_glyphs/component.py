"""The settings of ``glyph-match``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attrs import field, frozen, validators

from qi_core.source import SourceComponent

if TYPE_CHECKING:
    from qi_core import Place
    from qi_plugins.eval_glyphs.matching import Matching


@frozen(kw_only=True)
class GlyphMatch:
    """Paints strings and reads them back with the renderer's own glyphs; the reader is never told the answer.

    Figures: ``right``, the part of whole strings read as they were asked for, each glyph legible; ``colour``, the
    part whose both colours are nearest to the ones asked for; ``exact``, both; ``characters``, the part of characters
    right; ``likeness``, how much of the pictures' variance the strings that were read explain.
    """

    source: SourceComponent[Any]
    """Where the strings come from: a source whose pictures can be read back, such as rendered-text. Give it
    split = "held-out", and its strings were never trained on."""
    every: int = field(default=0, validator=validators.ge(0))
    """Steps between two; 0: only at the end."""
    count: int = field(default=128, validator=validators.gt(0))
    """Strings; the same ones every time."""
    shown: int = field(default=32, validator=validators.ge(0))
    """Of these, so many are shown in the picture grid."""
    title: str = "glyph-match"
    """Under which name figures and pictures are kept; tells several evaluations of a run apart."""

    def build(self, place: Place) -> Matching:
        from qi_plugins.eval_glyphs.matching import build

        return build(self, self.source.build(place, place.multiple))
