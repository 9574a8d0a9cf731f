"""The string that a prompt asks to be written: what stands between its quotation marks."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qi_core.reward import Candidate

NO_TEXT = "no text asked for"
"""Why a reward that reads has no verdict: the candidate names no text, and its prompt quotes none."""
_QUOTED = re.compile(r'"([^"]*)"|“([^”]*)”|「([^」]*)」|『([^』]*)』')


def quoted(prompt: str) -> tuple[str, ...]:
    """What stands in double quotes ("..." or “...”) or corner brackets (「...」, 『...』), in order; empty ones are
    left out. An opening mark without its closing one quotes nothing, and so does an apostrophe."""
    found = (next(part for part in match.groups() if part is not None) for match in _QUOTED.finditer(prompt))
    return tuple(part for part in found if part.strip())


def wanted_text(candidate: Candidate) -> str:
    """The string that should stand in the picture: its ``text``, else all that its prompt quotes, with a space between
    one quotation and the next. Empty where neither tells it."""
    return candidate.text or " ".join(quoted(candidate.prompt))
