"""Rules for captions, English and Chinese: what is no description of a picture."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

FAULTS = ("empty", "refusal", "repetition", "file name", "markup or address", "talks to its reader")
"""What a caption can be instead of one; ``fault`` gives one of these."""

_LEAD = r"[\s*#>_-]*"  # no quotation marks: what is quoted may be what the picture says
_APOLOGY = (
    r"(?:(?:i(?:'|’)?m|i am|we(?:'|’)?re|we are) (?:so |very |really )?(?:sorry|afraid)\b"
    r"|(?:so |very |really )?sorry\s*(?:[,.!;:—-]|but\b|for\b|about\b|i\b|we\b|$))"
)
_CANNOT = (
    r"\b(?:i|we)\s*(?:am|are|(?:'|’)m|(?:'|’)re|was|were)?\s*"
    r"(?:can(?:no|'|’| no)?t|cannot|unable to|not able to|not allowed to|won(?:'|’)t be able to|could ?n(?:o|'|’)t|"
    r"do(?: not|n(?:'|’)t) (?:have (?:access|the ability)|see (?:an?|the|any) (?:image|picture|photo)))"
)
_REFUSALS = (
    re.compile(rf"^{_LEAD}(?:{_APOLOGY}|apologies\b|i apologi[sz]e\b|my apologies\b|unfortunately,? (?:i|we)\b)"),
    re.compile(rf"^{_LEAD}(?:(?:unfortunately|however|hello|hi|hmm|thank)\b[^.!?]{{0,40}}[.!?,]\s*)?{_CANNOT}"),
    re.compile(r"\bas an? (?:ai(?: language)?(?: model| assistant)?|(?:large )?language model)\b"),
    re.compile(r"\bas an artificial intelligence\b"),
    re.compile(
        rf"^{_LEAD}(?:no (?:image|picture|photo) (?:was |is |has been )?"
        r"|the (?:image|picture|photo) (?:was|is|has|could)(?: not|n(?:'|’)t) (?:be |been )?)"
        r"(?:provided|available|attached|loaded|found|visible|displayed)"
    ),
    re.compile(r"\bplease (?:provide|upload|attach|share) (?:an?|the|your|another) (?:image|picture|photo)"),
    re.compile(r"\bviolates? (?:our|my|the) (?:content )?(?:policy|policies|guidelines)\b"),
    re.compile(rf"^{_LEAD}(?:(?:非常|十分|很)?(?:抱歉|对不起|不好意思|遗憾))"),
    re.compile(r"^[^“”\"「」]{0,12}(?:我|本助手)(?:现在|目前|暂时)?(?:无法|不能|没有办法|没办法|做不到|看不到|无权)"),
    re.compile(r"(?:作为|身为)(?:一个|一名)?(?:人工智能|AI|ai|大?语言模型|助手)"),
    re.compile(r"请(?:您)?(?:提供|上传|重新上传)(?:一张|图片|图像|照片)"),
)  # fmt: skip
_READER = (
    re.compile(rf"^{_LEAD}(?:sure|certainly|of course|here(?:'|’)?s|here is|okay|ok)[,!:. ].{{0,60}}"
               r"(?:caption|description|describ|image|picture|photo)"),
    re.compile(r"\b(?:let me know if|would you like me to|i hope this helps|feel free to ask)\b"),
    re.compile(rf"^{_LEAD}(?:好的|当然|没问题|以下是).{{0,20}}(?:描述|说明|图片|图像)"),
    re.compile(r"(?:希望(?:对你|对您|这).{0,6}帮助|如(?:果)?(?:你|您)?(?:还)?有(?:任何)?(?:其他)?(?:问题|需要|疑问))"),
)  # fmt: skip
_FILE = re.compile(
    r"^\s*(?:[\w()~+-]+[/\\])*[\w()~+.-]+\.(?:jpe?g|png|gif|webp|avif|bmp|tiff?|heic|psd|svg|raw|cr2|nef|mp4)\s*$"
    r"|^\s*(?:img|dsc[nf]?|pict|p|image|photo|screenshot|untitled|scan)[\s_-]*\d+(?:[\s_-]\d+)*\s*$"
    r"|^\s*[0-9a-f]{16,}\s*$|^\s*[\d\s_-]+\s*$"
)
_MARKUP = re.compile(
    r"</?(?:a|b|br|div|font|i|img|li|p|script|span|strong|table|td|tr|ul)\b[^>]*>|&(?:nbsp|amp|lt|gt|quot|#\d+);"
    r"|^\s*(?:https?://|www\.)\S+\s*$|^\s*[{\[].*[}\]]\s*$"
)
_UNITS = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]|[^\W\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]+")
_LOOP = 6
"""Units that make a phrase whose coming again is a loop, not a habit of language."""
_SPINS = 4
"""Times that a phrase may come: a caption that says it as often once more is in a loop."""


def fault(caption: str) -> str:
    """One of ``FAULTS``, or empty for a caption that may be one. Made to miss some rather than refuse good ones."""
    text = _bare(unicodedata.normalize("NFKC", caption).strip())
    if not units(text):
        return "empty"
    low = text.casefold()
    head = low[:400]
    if any(rule.search(head) for rule in _REFUSALS):
        return "refusal"
    if repeats(text):
        return "repetition"
    if _FILE.match(low):
        return "file name"
    if _MARKUP.search(low):
        return "markup or address"
    return "talks to its reader" if any(rule.search(head) or rule.search(low[-200:]) for rule in _READER) else ""


def _bare(text: str) -> str:
    """Without quotation marks around the whole of it."""
    whole = len(text) > 1 and (text[0], text[-1]) in (('"', '"'), ("“", "”"), ("'", "'"), ("「", "」"))
    return text[1:-1] if whole and not set(text[1:-1]) & set(text[0] + text[-1]) else text


def units(text: str) -> list[str]:
    """Words, and single characters of scripts that are written without spaces; no punctuation."""
    return _UNITS.findall(text)


def repeats(text: str) -> bool:
    """Whether it runs in a loop: the same few words five times in a row, or the same long phrase five times in all."""
    found = [unit.casefold() for unit in units(text)]
    for length in range(1, _LOOP):
        run = 1
        for at in range(length, len(found) - length + 1, 1):
            same = found[at] == found[at - length]
            run = run + 1 if same else 1
            if run > _SPINS * length and (length > 1 or run > 2 * _SPINS):
                return True
    phrases = Counter(tuple(found[at : at + _LOOP]) for at in range(len(found) - _LOOP + 1))
    return bool(phrases) and phrases.most_common(1)[0][1] > _SPINS
