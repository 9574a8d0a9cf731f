"""What both sources draw, and who draws it. No torch here."""

from __future__ import annotations

from random import Random
from typing import Any, Protocol

from attrs import frozen

from qi_core.sizes import Size


@frozen(kw_only=True, eq=False)
class Painted:
    """A picture and what is said about it."""

    picture: Any
    """Pillow's, RGB."""
    prompt: str
    text: str
    category: str


class Painter(Protocol):
    """Draws the pictures of a source. Everything comes from its settings and the dice; any thread may ask."""

    def size(self, form: Random) -> Size:
        """How large the picture will be; costs next to nothing."""
        ...

    def paint(self, n: int, form: Random, dice: Random) -> Painted:
        """The n-th; -1: one that stands in for another. ``form``: as ``size`` gets it. Raises Unusable."""
        ...
