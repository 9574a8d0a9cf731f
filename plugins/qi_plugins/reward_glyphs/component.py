"""The settings of ``glyph-match``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from attrs import frozen

from qi_core.source import SourceComponent

if TYPE_CHECKING:
    from qi_core import Place
    from qi_plugins.reward_glyphs.live import Matching


@frozen(kw_only=True)
class GlyphMatch:
    """How right a picture of a string is, 0 to 1, by the glyphs that it should be drawn with.

    Exact, and some milliseconds a picture.

    What should stand there is the candidate's text, or else what its prompt quotes. A picture for which neither tells
    it, or with a string or a size that the source never draws, is left out, counted.

    To see what was learned, measure with the evaluation glyph-match on strings that were held out: its reader is
    never told the answer, as it is here with score = "likeness".
    """

    groupwise: ClassVar[bool] = False

    source: SourceComponent[Any]
    """Tells how strings are drawn: a source whose pictures can be read back, such as rendered-text. Nothing is drawn
    from it, so its split does not matter."""
    also: tuple[SourceComponent[Any], ...] = ()
    """Further ones, where prompts come from several."""
    score: Literal["characters", "string", "likeness"] = "characters"
    """"characters": 1 - edit distance / length of the text, at least 0, so that characters too many cost as much as
    wrong ones; an illegible one is wrong. "string": 1 if all is right, else 0. "likeness": how near the glyphs are to
    the right ones as against the ones they could be taken for; without steps, so that all of a group's pictures
    seldom get the same."""

    def build(self, place: Place) -> Matching:
        from qi_plugins.reward_glyphs.live import build

        return build(self, [source.build(place, place.multiple) for source in (self.source, *self.also)])
