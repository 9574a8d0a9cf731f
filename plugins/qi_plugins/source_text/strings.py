"""Strings with some characters taken for others, and those of ``qi_core.strings``."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from qi_core.strings import Lines as Lines
from qi_core.strings import RandomStrings as RandomStrings
from qi_core.strings import Split as Split
from qi_core.strings import Strings as Strings
from qi_core.strings import frequent as frequent
from qi_core.strings import is_chinese as is_chinese
from qi_core.strings import is_held_out as is_held_out
from qi_core.strings import pick as pick
from qi_core.strings import read_lines as read_lines
from qi_core.strings import usable as usable


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
