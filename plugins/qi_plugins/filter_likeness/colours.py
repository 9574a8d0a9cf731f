"""``named-colours``: an offline stand-in for the similarity of picture and caption."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

from attrs import field, frozen, validators

from qi_core.bar import NOTHING, Bar

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from qi_core import Filter, Place, Sample

SIDE = 64
"""Pixels: as small as pictures are made before their colours are counted."""


@frozen(kw_only=True)
class NamedColours:
    """A stand-in for ``image-text`` without a model: how many of the colours that the caption names are in the picture.

    The share of them, 0 to 1, English and Chinese. It knows nothing else of either; use it for trials and for drawn
    data. Nothing is said of captions that name none.
    """

    least: float = field(default=0.5, validator=[validators.ge(0), validators.le(1)])
    """0: not asked."""
    seen: float = field(default=0.01, validator=[validators.gt(0), validators.le(1)])
    """The share of the picture that must have a colour."""

    def build(self, place: Place) -> Filter:
        def measured(sample: Sample) -> float:
            from qi_core.measures import picture

            named = colours_in(sample.prompt)
            if not named:
                return NOTHING
            small = picture(sample.image)
            small.thumbnail((SIDE, SIDE))
            shares = _shares(small)
            return sum(shares.get(name, 0.0) >= self.seen for name in named) / len(named)

        return Bar(measuring=measured, least=self.least, below="named colours are not there")


def colours_in(caption: str) -> set[str]:
    """English names of the colours that a caption names in English or Chinese, outside of quotation marks."""
    from qi_core.colours import CHINESE, NAMED

    told = re.sub(r'"[^"]*"|“[^”]*”|「[^」]*」|『[^』]*』', " ", caption.casefold()).replace("gray", "grey")
    words = set(re.findall(r"[a-z]+", told))
    return {name for name in NAMED if name in words or CHINESE[name] in told}


def _shares(small: object) -> dict[str, float]:
    """Of an RGB picture: the share of the pixels nearest to each named colour."""
    import numpy as np

    pixels = np.asarray(small).reshape(-1, 1, 3).astype(np.int32)
    nearest = ((pixels - _palette()) ** 2).sum(axis=2).argmin(axis=1)
    from qi_core.colours import NAMED

    counts = np.bincount(nearest, minlength=len(NAMED))
    return {name: float(count) / len(pixels) for name, count in zip(NAMED, counts, strict=True)}


@lru_cache(maxsize=1)
def _palette() -> NDArray[np.int32]:
    import numpy as np

    from qi_core.colours import NAMED

    return np.array(list(NAMED.values()), dtype=np.int32)[None]
