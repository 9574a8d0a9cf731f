"""The settings of ``text-density`` and ``small-text``. PP-OCR reads (the extra qi[ocr]); nothing is downloaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import field, frozen, validators

from qi_core.bar import NOTHING, Bar, above_none, in_order, or_none

if TYPE_CHECKING:
    from qi_core import Filter, Place, Sample
    from qi_core.ocr import Line, Readers


@frozen(kw_only=True)
class Reading:
    """How pictures are read. Filters that agree in this read each picture once, together."""

    side: int = field(default=736, validator=validators.ge(32))
    """To find lines, a picture whose shorter side is less is enlarged to this; the time goes with its square. 736 is
    the models' own."""
    confidence: float = field(default=0.5, validator=[validators.ge(0), validators.le(1)])
    """A line that is read with less counts as not there."""
    workers: int = field(default=1, validator=validators.gt(0))
    """Pictures read at once in a process; each worker has models of its own, up to 400 MB while it reads."""

    def readers(self) -> Readers:
        """Raises QiError where packages or models are missing."""
        from qi_core.ocr import Plainly, shared

        return shared(Plainly(side=self.side), self.workers)

    def sure(self, lines: tuple[Line, ...]) -> list[Line]:
        """Lines that count."""
        return [line for line in lines if line.confidence >= self.confidence and line.text.strip() and line.box]


@frozen(kw_only=True)
class TextDensity(Reading):
    """Share of the picture, 0 to 1, that lines of text take: the sum of their boxes. Stage S4 of the report.

    The reader's boxes are about 1.4 times as high as the letters are. ``least`` picks what has text at all, such as a
    split of its own.
    """

    least: float = field(default=0.0, validator=[validators.ge(0), validators.le(1)])
    """0: not asked."""
    most: float = field(default=1.0, validator=[validators.ge(0), validators.le(1), in_order])
    """1: not asked."""

    def build(self, place: Place) -> Filter:
        readers = self.readers()

        def density(sample: Sample) -> float:
            _, height, width = sample.image.shape
            taken = sum(line.area for line in self.sure(readers.lines(sample.image)))
            return min(taken / (height * width), 1.0)

        return Bar(
            measuring=density,
            least=above_none(self.least),
            most=or_none(self.most, 1),
            below="too little text",
            above="too much text",
        )


@frozen(kw_only=True)
class SmallText(Reading):
    """Height in pixels of the smallest line of text in the picture as it is trained on. Stage S4 of the report.

    What is written in a few pixels cannot be learned, only its blur. It is the height of the box that the reader puts
    around the line: 1.4 times the size of the font, from 10 to 60 pixels. Nothing is said of pictures without text;
    letters too small to be found at all don't count.
    """

    least: float = field(default=0.0, validator=validators.ge(0))
    """Pixels. 0: not asked."""
    most: float = field(default=0.0, validator=[validators.ge(0), in_order])
    """Pixels; picks pictures that have some small text. 0: not asked."""
    share: float = field(default=0.0, validator=[validators.ge(0), validators.lt(1)])
    """So many of a picture's characters may be smaller than the height that counts: 0.1 looks past the small print."""

    def build(self, place: Place) -> Filter:
        readers = self.readers()

        def smallest(sample: Sample) -> float:
            lines = sorted((line.height, len(line.text)) for line in self.sure(readers.lines(sample.image)))
            may = self.share * sum(count for _, count in lines)
            passed = 0
            for height, count in lines:
                passed += count
                if passed > may:
                    return height
            return NOTHING

        return Bar(
            measuring=smallest,
            least=above_none(self.least),
            most=or_none(self.most),
            below="text too small",
            above="no small text",
        )
