"""The live reward."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence

from qi_core import Candidate, QiError, Scores, Source
from qi_core.glyphs import Legible, Reader, Typeset
from qi_core.place import Closing
from qi_core.quotes import NO_TEXT, wanted_text
from qi_plugins.reward_glyphs.component import GlyphMatch

NO_SUCH_TEXT = "a text that the source never draws"
NO_SUCH_SIZE = "a size that the source never draws"


class Matching:
    """A live ``glyph-match``."""

    def __init__(self, settings: GlyphMatch, readers: Mapping[tuple[int, int], Reader]) -> None:
        """``readers``: by height and width."""
        self.settings = settings
        self.readers = dict(readers)

    async def score(self, candidates: Sequence[Candidate]) -> Scores:
        """See ``Reward.score``."""
        found = [await asyncio.to_thread(self._one, candidate) for candidate in candidates]
        return Scores(
            values=tuple(None if isinstance(value, str) else value for value in found),
            failures=dict(Counter(reason for reason in found if isinstance(reason, str))),
        )

    def _one(self, candidate: Candidate) -> float | str:
        """The score, or why there is none."""
        text = wanted_text(candidate)
        if not text:
            return NO_TEXT
        _, height, width = candidate.image.shape
        reader = self.readers.get((height, width))
        if reader is None:
            return NO_SUCH_SIZE
        if not any(face.draws(text) for face in reader.typesets):
            return NO_SUCH_TEXT
        picture = candidate.image.float().div(127.5).sub(1.0).cpu().numpy()
        if self.settings.score == "likeness":
            return reader.closeness(picture, text)
        read = reader.read(picture).text
        if self.settings.score == "string":
            return float(read == text)
        return max(0.0, 1.0 - distance(read, text) / len(text))

    async def close(self) -> None:
        """See ``Reward.close``. There is nothing to let go of."""


def build(settings: GlyphMatch, sources: Sequence[Source[object]]) -> Matching:
    """Asks the sources for their typesets, and lets go of them."""
    faces: dict[tuple[int, int], dict[Typeset, None]] = {}
    try:
        for source in sources:
            if not isinstance(source, Legible):
                raise QiError(
                    f"reward glyph-match: pictures of {type(source).__name__} cannot be read back; "
                    "wanted sources of strings, such as rendered-text"
                )
            for face in source.typesets():
                faces.setdefault((face.height, face.width), {})[face] = None
    finally:
        for source in sources:
            if isinstance(source, Closing):
                source.close()
    return Matching(settings, {size: Reader(typesets=tuple(those)) for size, those in faces.items()})


def distance(read: str, text: str) -> int:
    """Fewest characters to put in, leave out or replace to make one string of the other (Levenshtein 1966). Both are as
    short as a line of slots, so this needs no library."""
    row = list(range(len(text) + 1))
    for number, character in enumerate(read, start=1):
        diagonal, row[0] = row[0], number
        for at, wanted in enumerate(text, start=1):
            diagonal, row[at] = row[at], min(row[at] + 1, row[at - 1] + 1, diagonal + (character != wanted))
    return row[-1]
