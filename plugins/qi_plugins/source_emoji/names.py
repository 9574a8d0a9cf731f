"""Which characters are emoji, and what they are called: Unicode's CLDR, as the library ``emoji`` has it."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from attrs import frozen

from qi_core.material import digest
from qi_plugins.source_emoji.component import Group, Joined
from qi_plugins.source_emoji.joining import VARIANT

BLOCKS: tuple[tuple[Group, int, int], ...] = (
    ("faces", 0x1F600, 0x1F64F),
    ("pictures", 0x1F300, 0x1F5FF),
    ("transport", 0x1F680, 0x1F6FF),
    ("newer", 0x1F900, 0x1F9FF),
    ("newer", 0x1FA70, 0x1FAFF),
)
"""Of Unicode; first and last character."""
TONES = frozenset(map(chr, range(0x1F3FB, 0x1F400)))
"""Of skin: light to dark."""
REGIONS = frozenset(map(chr, range(0x1F1E6, 0x1F200)))
"""Letters, two of which are a flag."""
_TONE = re.compile(r" ((?:medium-)?(?:light|dark)|medium) skin tone")
KEYCAP, LAST_TAG = "\u20e3", "\U000e007f"


@frozen
class Named:
    """One emoji."""

    text: str
    """One character, or several that are joined."""
    english: str
    chinese: str
    """Empty if it has no name in Chinese."""

    @property
    def group(self) -> Group:
        """See ``Emoji.groups``."""
        if self.joined in ("flags", "keycaps"):
            return "symbols"
        number = ord(self.text[0])
        return next((name for name, first, last in BLOCKS if first <= number <= last), "symbols")

    @property
    def joined(self) -> Joined | None:
        """Of which kind it is, if it is of several characters."""
        if len(self.text) == 1:
            return None
        if any(character in TONES for character in self.text):
            return "skin-tones"
        if self.text.endswith(KEYCAP):
            return "keycaps"
        return "flags" if self.text[0] in REGIONS or self.text.endswith(LAST_TAG) else "others"

    @property
    def plain(self) -> str:
        """The same emoji in whatever skin tone: one that is held out is not drawn in another either."""
        return "".join(character for character in self.text if character not in TONES and character != VARIANT)


@lru_cache(maxsize=1)
def known() -> tuple[Named, ...]:
    """All emoji, those of one character first, in the order of their code points. Skin tones and hair are no pictures
    by themselves."""
    import emoji

    emoji.config.load_language("zh")
    found: dict[str, Named] = {}
    for text, told in emoji.EMOJI_DATA.items():
        short = text.removesuffix(VARIANT)
        if len(short) == 1 and told["status"] != emoji.STATUS["component"]:
            found[short] = Named(short, _plain(told, "en"), _plain(told, "zh"))
        elif len(short) > 1 and told["status"] == emoji.STATUS["fully_qualified"]:
            found[text] = _of_several(text, told)
    return tuple(found[text] for text in sorted(found, key=lambda text: (len(text) > 1, text)))


@lru_cache(maxsize=1)
def digest_of_all() -> str:
    """Another version of the library knows other emoji, or calls them otherwise."""
    return digest(f"{each.text} {each.english} {each.chinese}" for each in known())


def _of_several(text: str, told: dict[str, Any]) -> Named:
    """CLDR's commas and colons, which the library leaves out: "flag: Germany", "family: man, girl", "waving hand, dark
    skin tone"."""
    named = Named(text, _plain(told, "en"), _plain(told, "zh"))
    if named.joined == "flags":
        chinese = f"旗：{named.chinese}" if named.chinese else ""
        return Named(text, f"flag: {named.english}", chinese)
    english = _TONE.sub(r", \1 skin tone", named.english)
    if english.startswith("family "):
        english = "family: " + ", ".join(english.split()[1:])
    return Named(text, english, named.chinese)


def _plain(told: dict[str, Any], language: str) -> str:
    """``:grinning_face:`` -> grinning face."""
    return str(told.get(language, "")).strip(":").replace("_", " ").strip()
