"""The settings of ``watermark``, and how it measures. PP-OCR reads (the extra qi[ocr]); nothing is downloaded."""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING

from attrs import field, frozen, validators

from qi_core.bar import Bar

if TYPE_CHECKING:
    from qi_core import Filter, Place, Sample

WORDS = (
    "123rf", "adobestock", "alamy", "bigstock", "canstock", "deposit photos", "depositphotos", "dreamstime", "fotolia",
    "freepik", "getty images", "gettyimages", "istock", "pngtree", "shutterstock", "stockphoto", "vectorstock",
    "watermark", "包图网", "摄图网", "千图网", "千库网", "视觉中国", "图虫", "昵图网", "汇图网", "全景网", "站酷",
    "花瓣网", "水印", "禁止转载", "版权所有", "侵权必究",
)  # fmt: skip
_SIGNS = re.compile(
    r"©|\(c\)\s*(?:19|20)\d\d|all rights reserved|copyright\b|www\.[\w-]+\.|https?://|@[a-z][\w.]{3,}\b"
    r"|\b[\w-]{3,}\.(?:com|net|org|cn)\b"
)


@frozen(kw_only=True)
class Watermark:
    """Number of lines of text in the picture that are a known mark of stock agencies, a copyright or an address.

    Stage S5 of the report, abnormal elements. By reading, so that it can find written marks alone: a logo without
    words, or letters too faint for the reader, are missed. For those, annotate the data ("Watermark List" of
    ``qi data annotate``) and put the keys on the list of a filter ``listed``.
    """

    most: int = field(default=0, validator=validators.ge(0))
    """A picture may have so many."""
    words: tuple[str, ...] = WORDS
    """What is looked for in every line, whatever its case and spaces."""
    signs: bool = True
    """Whether copyright signs, addresses of the web and @names count too. Not for pictures that are themselves about
    such text (adverts, user interfaces)."""
    side: int = field(default=736, validator=validators.ge(32))
    """As for text-density."""
    confidence: float = field(default=0.5, validator=[validators.ge(0), validators.le(1)])
    """A line that is read with less counts as not there."""
    workers: int = field(default=1, validator=validators.gt(0))
    """Pictures read at once in a process; each worker has models of its own, up to 400 MB while it reads."""

    def build(self, place: Place) -> Filter:
        from qi_core.ocr import Plainly, shared

        readers, words = shared(Plainly(side=self.side), self.workers), tuple(map(_squeezed, self.words))

        def marks(sample: Sample) -> float:
            lines = [line.text for line in readers.lines(sample.image) if line.confidence >= self.confidence]
            return float(sum(self.is_mark(text, words) for text in lines))

        return Bar(measuring=marks, most=self.most, above="watermark")

    def is_mark(self, text: str, words: tuple[str, ...]) -> bool:
        """Of a line as it was read; ``words`` without spaces, in small letters."""
        if any(word in _squeezed(text) for word in words):
            return True
        return self.signs and _SIGNS.search(unicodedata.normalize("NFKC", text).casefold()) is not None


def _squeezed(text: str) -> str:
    return "".join(unicodedata.normalize("NFKC", text).casefold().split())
