"""The settings of ``ocr``."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from attrs import field, frozen, validators

if TYPE_CHECKING:
    from qi_core import Place
    from qi_plugins.reward_ocr.live import Reading


@frozen(kw_only=True)
class Ocr:
    """Reads the picture with PP-OCR (English, Chinese and other scripts) and compares with the text asked for.

    1 - edit distance / length of the text, at least 0: text beyond what was asked for costs as much as wrong letters.
    The text is the candidate's, or else what its prompt quotes, which may be several lines, read from the top. A
    picture for which neither tells it is left out, counted. Part ``exact``: 1 where all is right, else 0.

    The models come inside the package rapidocr; nothing is downloaded. They run on the CPU.
    """

    groupwise: ClassVar[bool] = False

    detect: bool = True
    """Find the lines of text first. False: the whole picture is one line, which is many times quicker."""
    enlarge: int = field(default=1, validator=validators.gt(0))
    """Pictures are enlarged by so much before they are read: lines are found best where letters are some 30 pixels
    high or more."""
    resample: Literal["bicubic", "nearest"] = "bicubic"
    """How they are enlarged."""
    margin: int = field(default=0, validator=validators.ge(0))
    """Pixels put around the (enlarged) picture, of the colour of its edge: a reader sees a letter worse at the edge."""
    side: int = field(default=736, validator=validators.ge(32))
    """To find lines, a picture whose shorter side is less is enlarged to this; the time goes with its square. 736 is
    the models' own; less for pictures that are themselves small."""
    least: float = field(default=0.5, validator=[validators.ge(0), validators.le(1)])
    """A line that is read with less confidence counts as not there."""
    case: bool = False
    """Whether capitals and small letters differ."""
    spaces: bool = False
    """Whether spaces count, a line's end among them. Readers often miss them. (Full-width and half-width forms are
    always the same: Unicode's NFKC.)"""
    threads: int = field(default=1, validator=validators.gt(0))
    """Threads that read one picture."""
    workers: int = field(default=1, validator=validators.gt(0))
    """Pictures read at once; each worker has models of its own, up to 400 MB while it reads."""

    def build(self, place: Place) -> Reading:
        from qi_plugins.reward_ocr.live import build

        return build(self)
