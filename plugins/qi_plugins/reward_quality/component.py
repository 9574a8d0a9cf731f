"""The settings of the rewards that look at the picture alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from attrs import field, frozen, validators

if TYPE_CHECKING:
    from qi_core import Place
    from qi_core.reward import Reward


@frozen(kw_only=True)
class Compressibility:
    """The smaller the picture's JPEG file, the better: minus its size in kB (1000 bytes).

    Black et al. 2023 (DDPO, arXiv 2305.13301) show policy gradients by it: it needs no model and no prompt, and what it
    does to pictures is plain to see. Detail goes.
    """

    groupwise: ClassVar[bool] = False
    sign: ClassVar[float] = -1.0

    quality: int = field(default=95, validator=[validators.ge(1), validators.le(100)])
    """JPEG's; 95 is DDPO's."""

    def build(self, place: Place) -> Reward:
        from qi_plugins.reward_quality.live import JpegSize

        return JpegSize(self.quality, self.sign)


@frozen(kw_only=True)
class Incompressibility(Compressibility):
    """The larger the picture's JPEG file, the better: its size in kB. What comes of it is clutter."""

    sign: ClassVar[float] = 1.0


@frozen(kw_only=True)
class Brisque:
    """How natural a picture looks, whatever it shows: 1 - BRISQUE / 100.

    About 1 for a sharp photograph, less the more blur, noise or compression has spoiled it; not cut off at either end.
    Pictures that are no photographs, such as drawn text, it judges all the same, and badly. Statistics of neighbouring
    pixels are weighed by a support vector machine that people's opinions of spoilt photographs have trained (Mittal,
    Moorthy and Bovik 2012). The machine's numbers come in the wheel of the package brisque, of which nothing else is
    used: pip install --no-deps brisque. A picture of one colour, or with a side below 32 pixels, is left out, counted.
    """

    groupwise: ClassVar[bool] = False

    model: Path | None = None
    """A folder with svm.txt (LIBSVM's text format) and normalize.pickle (which is parsed, never run); if not that of
    the installed package brisque."""

    def build(self, place: Place) -> Reward:
        from qi_plugins.reward_quality.live import Natural
        from qi_plugins.reward_quality.machine import load

        return Natural(load(self.model))
