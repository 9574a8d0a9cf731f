"""Characters taken for others that look like them."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from qi_core.strings import pick


def confused(text: str, look_alikes: Sequence[str], part: float, dice: Random) -> str:
    """Each character that stands in a group becomes another one of it with probability ``part``."""
    groups = {character: group for group in look_alikes for character in group}
    drawn = ""
    for character in text:
        others = groups.get(character, "").replace(character, "")
        if others and dice.random() < part:
            character = others[pick(dice, len(others))]
        drawn += character
    return drawn
