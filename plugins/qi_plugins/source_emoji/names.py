"""Which characters are emoji, and what they are called: Unicode's CLDR, as the library ``emoji`` has it."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from attrs import frozen

from qi_plugins.source_emoji.component import Group

VARIANT = "\ufe0f"
"""Asks for the colour picture of a character that is text by default (Unicode TR 51)."""
BLOCKS: tuple[tuple[Group, int, int], ...] = (
    ("faces", 0x1F600, 0x1F64F),
    ("pictures", 0x1F300, 0x1F5FF),
    ("transport", 0x1F680, 0x1F6FF),
    ("newer", 0x1F900, 0x1F9FF),
    ("newer", 0x1FA70, 0x1FAFF),
)
"""Of Unicode; first and last character."""


@frozen
class Named:
    """One emoji."""

    character: str
    english: str
    chinese: str
    """Empty if it has no name in Chinese."""

    @property
    def group(self) -> Group:
        """See ``Emoji.groups``."""
        number = ord(self.character)
        return next((name for name, first, last in BLOCKS if first <= number <= last), "symbols")


@lru_cache(maxsize=1)
def known() -> tuple[Named, ...]:
    """All emoji of one character, in the order of their code points. Skin tones and hair are no pictures."""
    import emoji

    emoji.config.load_language("zh")
    found: dict[str, Named] = {}
    for text, told in emoji.EMOJI_DATA.items():
        character = text.removesuffix(VARIANT)
        if len(character) == 1 and told["status"] != emoji.STATUS["component"]:
            found[character] = Named(character, _plain(told, "en"), _plain(told, "zh"))
    return tuple(found[character] for character in sorted(found))


def _plain(told: dict[str, Any], language: str) -> str:
    """``:grinning_face:`` -> grinning face."""
    return str(told.get(language, "")).strip(":").replace("_", " ").strip()
