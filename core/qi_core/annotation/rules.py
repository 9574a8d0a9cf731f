"""The expert rules: what an annotation must be to be trained on. Made for English and Chinese.

Each rule gives the reason that failed annotations are counted by and that the model is told when it is asked again.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

from attrs import field, frozen, validators

from qi_core import captions
from qi_core.annotation.answer import Annotation, Refused
from qi_core.annotation.prompts import Language
from qi_core.quotes import quoted

_OPENINGS = {
    "en": re.compile(
        r"^\W*(?:in )?(?:this|the|here is an?|it is an?) (?:\w+ ){0,2}?(?:image|picture|photo|photograph)\b",
        re.IGNORECASE,
    ),
    "zh": re.compile(
        r"^\W*(?:在)?(?:这|此|该|本)?(?:是)?(?:一)?(?:张|幅)?(?:图片|图像|照片|画面|图)(?:中|里|上|内|展示|显示|描绘|呈现|是)"
    ),
}
_MARKDOWN = re.compile(r"^\s*(?:[-*•]|\d+[.)]|#{1,6})\s|\*\*|```|</?\w+>", re.MULTILINE)
_PLACEHOLDER = re.compile(r"^\W*$|^(?:caption|description|描述|string)$|^\W*\.\.\.\W*$|<[^>]{0,40}>", re.IGNORECASE)
_NOTHING = frozenset({"", "none", "no", "n/a", "na", "null", "nil", "no watermark", "无", "没有", "无水印", "没有水印"})
_PAIRS = (("“", "”"), ("「", "」"), ("『", "』"))
_CJK = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
_LATIN = re.compile(r"^[A-Za-z\u00c0-\u024f\d_]+$")


@frozen(kw_only=True)
class Rules:
    """What is asked of an annotation."""

    language: Language = "en"
    shortest: int = field(default=8, validator=validators.gt(0))
    """Words of a caption, at least; where words are written without spaces, characters."""
    longest: int = field(default=500, validator=validators.gt(0))

    def __attrs_post_init__(self) -> None:
        if self.shortest > self.longest:
            raise ValueError(f"captions of {self.shortest} to {self.longest} words; wanted the fewest first")

    def check(self, found: Annotation) -> None:
        """Raises Refused with the first thing that is wrong, and all of them in its detail."""
        wrong = [*self._caption(found.caption), *_labels(found), *_marks(found)]
        if wrong:
            (reason, detail), *others = wrong
            raise Refused(reason, "; ".join(filter(None, (detail, *(told for told, _ in others)))))

    def _caption(self, caption: str) -> Iterator[tuple[str, str]]:
        count = len(captions.units(caption))
        if _PLACEHOLDER.match(caption):
            yield "the caption is a placeholder", ""
            return
        if fault := captions.fault(caption):
            yield f"the caption is no description: {fault}", ""
        if "\n" in caption or _MARKDOWN.search(caption):
            yield "the caption is not plain text", "no lists, headings, marks or line breaks"
        if any(unicodedata.category(each) in ("Cc", "Cs", "Co", "Cn") and each != "\n" for each in caption):
            yield "the caption holds characters that are no text", ""
        if count < self.shortest:
            yield "the caption is too short", f"{count} words, at least {self.shortest} wanted"
        if count > self.longest:
            yield "the caption is too long", f"{count} words, at most {self.longest} wanted"
        if _OPENINGS[self.language].match(caption):
            yield "the caption speaks of the image", "it should begin with the subject"
        if caption.count('"') % 2 or any(caption.count(a) != caption.count(b) for a, b in _PAIRS):
            yield "a quotation in the caption does not end", ""
        if count >= self.shortest and not self._as_asked(caption):
            yield "the caption is in another language", "Chinese wanted" if self.language == "zh" else "English wanted"

    def _as_asked(self, caption: str) -> bool:
        """By its letters outside quotations, which are in the language of the picture. Words of Latin letters may stand
        in Chinese (names), but few Chinese characters in English."""
        said = captions.units(_unquoted(caption))
        if not said:
            return True
        chinese = sum(bool(_CJK.match(unit)) for unit in said) / len(said)
        latin = sum(bool(_LATIN.match(unit)) for unit in said) / len(said)
        return chinese >= 0.6 if self.language == "zh" else latin >= 0.9


def _labels(found: Annotation) -> Iterator[tuple[str, str]]:
    for name, label in (("Image Type", found.type), ("Image Style", found.style)):
        if _PLACEHOLDER.match(label) or label.casefold() in _NOTHING:
            yield f'"{name}" says nothing', label[:40]
        elif len(label) > 80 or "\n" in label:
            yield f'"{name}" is no few words', f"{len(label)} characters, at most 80 wanted"


def _marks(found: Annotation) -> Iterator[tuple[str, str]]:
    marks = found.watermarks
    if any(mark.casefold() in _NOTHING or _PLACEHOLDER.match(mark) for mark in marks):
        yield '"Watermark List" lists nothing as something', "an empty list where there is none"
        return
    if len(marks) > 32 or any(len(mark) > 200 for mark in marks):
        yield '"Watermark List" is too long', "at most 32 of 200 characters wanted"
    if marks and not found.abnormal:
        yield '"Abnormal Element" denies the watermarks', f"{len(marks)} listed"
    told = {text.casefold().strip() for text in quoted(found.caption)}
    if any(mark.casefold() in told for mark in marks):
        yield "the caption quotes a watermark", ""


def _unquoted(caption: str) -> str:
    return re.sub(r'"[^"]*"|“[^”]*”|「[^」]*」|『[^』]*』', " ", caption)
