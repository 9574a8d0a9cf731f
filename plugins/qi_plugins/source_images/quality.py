"""The quality bar of the report's SFT data (section 4: clear, rich in detail, bright), in numbers.

Everything is measured on luma Y in 0 to 255 (ITU-R BT.601: 0.299 R + 0.587 G + 0.114 B, rounded), as Pillow converts,
and summed in whole numbers, so that a verdict is the same on every machine.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from attrs import Attribute, field, frozen, validators

from qi_core.drawing import Rejected
from qi_core.measures import average, clarity, entropy, saturation


def _range(_: object, attribute: Attribute[tuple[float, float]], value: tuple[float, float]) -> None:
    if not 0 <= value[0] < value[1] <= 1:
        raise ValueError(f"'{attribute.name}' is {list(value)}; wanted [least, most] with 0 <= least < most <= 1")


@frozen(kw_only=True)
class Quality:
    """What a picture must have, measured on the whole picture as it is stored, before it is scaled or cropped."""

    clarity: float = field(default=0.0, validator=validators.ge(0))
    """Least variance of the Laplacian of luma (4 neighbours, luma 0 to 255; Pech-Pacheco et al. 2000): from 0 for a
    plain ground, over about 100 where a photograph begins to look sharp, to a million. Blurred pictures have little of
    it, and so have faint ones: it grows with the square of the contrast. 0: not asked."""
    detail: float = field(default=0.0, validator=[validators.ge(0), validators.le(8)])
    """Least entropy of the histogram of luma, in bits: 0 (one grey) to 8 (all 256 alike). Photographs have 6 to 7.8,
    drawings of few colours 1 to 4. 0: not asked."""
    brightness: tuple[float, float] = field(default=(0.0, 1.0), validator=_range)
    """Least and most mean luma, 0 (black) to 1 (white). [0, 1]: not asked."""
    saturation: float = field(default=0.0, validator=[validators.ge(0), validators.le(1)])
    """Least mean saturation, (max - min) / max of red, green and blue, 0 where all are 0: 0 (greys) to 1. 0: not
    asked."""

    def asks(self) -> bool:
        """Whether anything is."""
        return self != Quality()

    def judge(self, picture: Any) -> Rejected | None:
        """What is wrong with an RGB picture of Pillow's: counted by the first bar it fails, told with all of them."""
        luma = picture.convert("L")
        failed: list[tuple[str, str]] = []
        if self.clarity and (found := clarity(np.asarray(luma))) < self.clarity:
            failed.append(("not clear", f"clarity {found:.4g}, at least {self.clarity:g} wanted"))
        if self.detail and (found := entropy(luma.histogram())) < self.detail:
            failed.append(("not detailed", f"detail {found:.4g} bits, at least {self.detail:g} wanted"))
        least, most = self.brightness
        if (least, most) != (0.0, 1.0) and not least <= (found := average(luma.histogram())) <= most:
            told = f"brightness {found:.4g}, {least:g} to {most:g} wanted"
            failed.append(("too dark" if found < least else "too bright", told))
        if self.saturation:
            found = saturation(picture)
            if found < self.saturation:
                failed.append(("too pale", f"saturation {found:.4g}, at least {self.saturation:g} wanted"))
        return Rejected(failed[0][0], "; ".join(told for _, told in failed)) if failed else None
