"""What is written: words, names, dates and lines of a file, all of the split that is asked for."""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from importlib.resources import files
from random import Random
from typing import Any, Literal, TypeAlias

from attrs import evolve, field, frozen

from qi_core import QiError, typeface
from qi_core.strings import TRIES, Lines, frequent, is_chinese, is_held_out, pick, usable
from qi_plugins.source_synthetic.component import LANGUAGES, Synthetic

Case: TypeAlias = Literal["title", "sentence", "upper", "lower", "any"]
_CASES: tuple[Case, ...] = ("title", "sentence", "upper", "lower")
_ROOM = {"english": 7, "chinese": 3}
"""Characters that a place for one word may get of a line of a file."""


@frozen(kw_only=True, eq=False)
class Vocabulary:
    """What can be written in one language. Everything it gives belongs to the split."""

    language: str
    words: tuple[str, ...]
    """Common words; none: random ones of the alphabet."""
    latin: tuple[str, ...]
    """English words, of which addresses are made in every language."""
    alphabet: str
    lengths: tuple[int, int]
    lists: Mapping[str, tuple[str, ...]]
    held_out: float
    split: str
    fonts: tuple[str, ...]
    """Those that have all its characters; for lines of a file, all that are named."""
    lines: Lines | None = None
    """Of a file: they stand in the place of words."""
    _wanted: bool = field(init=False)

    @_wanted.default
    def _held(self) -> bool:
        return self.split == "held-out"

    def belongs(self, text: str) -> bool:
        """For training, neither a string nor any word of it may be held out; to be held out, the whole must be."""
        if self._wanted:
            return is_held_out(text, self.held_out)
        return not any(is_held_out(part, self.held_out) for part in {text, *text.split()})

    def font(self, dice: Random, text: str = "") -> str:
        """One that can draw the text. ``usable`` has seen to it that there is one."""
        able = [font for font in self.fonts if _has(font, text)] if self.lines else self.fonts
        return able[pick(dice, len(able))]

    def phrase(self, dice: Random, count: tuple[int, int], case: Case = "any", font: str = "", n: int = -1) -> str:
        """A few words, or a line of the file: the n-th if n is given."""
        if self.lines is not None:
            return self._line(self.lines, dice, count[1], font, n)
        if case == "any":
            case = _CASES[pick(dice, len(_CASES))]
        most = count[0] + pick(dice, count[1] - count[0] + 1)
        for _ in range(TRIES):
            words = [self._word(dice, _cased(case, place)) for place in range(most)]
            text = (" " if self.language == "english" else "").join(words)
            if self.belongs(text):
                return text
        raise self._nothing(f"{most} words")

    def say(self, what: str, dice: Random, count: tuple[int, int], case: Case = "any", font: str = "") -> str:
        """``what``: "words", the name of a format (price, date, ...) or that of a list."""
        if what in FORMATS:
            return self._first(lambda: FORMATS[what](self, dice), what)
        if what == "words" or not self.lists.get(what):  # nothing of the list is of this split
            return self.phrase(dice, count, case, font)
        chosen = self.lists[what]
        return chosen[pick(dice, len(chosen))]

    def with_lists(self, more: Mapping[str, Iterable[str]]) -> dict[str, tuple[str, ...]]:
        """Its lists and those of a template."""
        own = {name: tuple(text for text in texts if self.belongs(text)) for name, texts in more.items()}
        return {**self.lists, **own}

    def amount(self, dice: Random) -> int:
        """Of three digits. Raises QiError where none is of this split."""
        return int(self._first(lambda: str(100 + pick(dice, 900)), "numbers of three digits"))

    def address(self, dice: Random) -> str:
        """An English word in small letters, for what has none in other languages."""
        return self.latin[pick(dice, len(self.latin))]

    def _line(self, lines: Lines, dice: Random, words: int, font: str, n: int) -> str:
        if n >= 0:
            return lines.choose(n, dice)
        text = ""
        for _ in range(50):  # a line may always be too long: then it is up to the place
            text = lines.lines[pick(dice, len(lines.lines))]
            if (not font or _has(font, text)) and len(text) <= _ROOM[self.language] * words:
                break
        return text

    def _word(self, dice: Random, case: Case) -> str:
        def word() -> str:
            if self.words:
                return _in_case(self.words[pick(dice, len(self.words))], case)
            length = self.lengths[0] + pick(dice, self.lengths[1] - self.lengths[0] + 1)
            return "".join(self.alphabet[pick(dice, len(self.alphabet))] for _ in range(length))

        return self._first(word, "words")

    def _first(self, make: Callable[[], str], what: str) -> str:
        for _ in range(TRIES):
            if self.belongs(text := make()):
                return text
        raise self._nothing(what)

    def _nothing(self, what: str) -> QiError:
        return QiError(
            f"{TRIES} times {what} in {self.language}, and none of it belongs to split '{self.split}'; "
            "change 'held_out', or ask for more words ('letters', 'charset', 'lengths')"
        )


def _price(vocabulary: Vocabulary, dice: Random) -> str:
    whole = 1 + pick(dice, 999)
    return f"${whole}.{('00', '50', '90', '95', '99')[pick(dice, 5)]}" if _english(vocabulary) else f"¥{whole}"


def _date(vocabulary: Vocabulary, dice: Random) -> str:
    day, month, year = 1 + pick(dice, 28), pick(dice, 12), 2020 + pick(dice, 20)
    return f"{day} {_MONTHS[month]} {year}" if _english(vocabulary) else f"{year}年{month + 1}月{day}日"


def _email(vocabulary: Vocabulary, dice: Random) -> str:
    return f"{vocabulary.address(dice)}@{vocabulary.address(dice)}.com"


def _site(vocabulary: Vocabulary, dice: Random) -> str:
    return f"www.{vocabulary.address(dice)}{vocabulary.address(dice)}.com"


def _phone(_: Vocabulary, dice: Random) -> str:
    return f"555-{pick(dice, 10000):04d}"


_MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)
FORMATS: dict[str, Callable[[Vocabulary, Random], str]] = {
    "number": lambda _, dice: f"{pick(dice, 10000):,}",
    "percent": lambda _, dice: f"{pick(dice, 1000) / 10:g}%",
    "time": lambda _, dice: f"{pick(dice, 24)}:{pick(dice, 60):02d}",
    "price": _price,
    "date": _date,
    "email": _email,
    "site": _site,
    "phone": _phone,
}
"""What has a form of its own, and is never a line of a file."""
CHINESE_FORMS = {"english": "", "chinese": "年月日¥"}


def vocabularies(
    settings: Synthetic, seed: int, skipped: Counter[str], read: Sequence[str], forms: bool = True
) -> tuple[Vocabulary, ...]:
    """One a language. ``read``: the lines of ``text``. ``forms``: whether lists and formats will be asked for, and
    fonts must have their characters. Raises QiError where the fonts or the file don't have what it takes."""
    fonts = typeface.spelt_out(settings.fonts)
    able = {
        language: _able(fonts, language, _needed(settings, language, forms), skipped) for language in settings.languages
    }
    if settings.text is None:
        return tuple(_vocabulary(settings, language, able[language]) for language in settings.languages)
    found: list[Vocabulary] = []
    for language in settings.languages:
        own = [line for line in read if is_chinese(line) == (language == "chinese")]
        whole = usable(own, map(typeface.characters, able[language]), skipped)
        lines = tuple(line for line in whole if is_held_out(line, settings.held_out) == (settings.split == "held-out"))
        if lines:
            found.append(_vocabulary(settings, language, able[language], Lines(lines=lines, seed=seed)))
    if len(settings.languages) < len(LANGUAGES):
        others = sum(is_chinese(line) != (settings.languages[0] == "chinese") for line in read)
        skipped["is of a language that is not named"] += others
    if not found:
        raise QiError(
            f"{settings.text}: {len(read)} lines, none of them usable, in split '{settings.split}' and in "
            f"{' or '.join(settings.languages)} (skipped: {dict(+skipped) or 'none'}); wanted at least one"
        )
    return tuple(found)


def _needed(settings: Synthetic, language: str, forms: bool) -> str:
    """The characters that a font must have, whatever is written."""
    needed: set[str] = set()
    if settings.text is None and settings.words == "common":
        needed.update(*shipped(language)["words"])
        needed |= {character.upper() for character in needed}
    elif settings.text is None:
        needed |= set(_alphabet(settings, language))
    if forms:
        needed.update("0123456789.,:@$%-", *_MONTHS, *shipped("english")["words"], *CHINESE_FORMS[language])
        for texts in shipped(language)["lists"].values():
            needed.update(*texts)
    return "".join(sorted(needed - {" "}))


def _alphabet(settings: Synthetic, language: str) -> str:
    return "".join(dict.fromkeys(settings.letters)) if language == "english" else frequent()[: settings.charset]


def _able(fonts: tuple[str, ...], language: str, needed: str, skipped: Counter[str]) -> tuple[str, ...]:
    able = tuple(font for font in fonts if typeface.covers(font, needed))
    if not able:
        raise QiError(
            f"{fonts[0]} has no glyph for {typeface.missing(fonts[0], needed)[:20]!r}, which {language} needs, and no "
            "other font named has them all; name another font, or change 'languages', 'letters' or 'charset'"
        )
    if len(able) < len(fonts):
        skipped[f"fonts without all the characters of {language}"] += len(fonts) - len(able)
    return able


def _vocabulary(settings: Synthetic, language: str, fonts: tuple[str, ...], lines: Lines | None = None) -> Vocabulary:
    empty = Vocabulary(
        language=language,
        words=shipped(language)["words"] if settings.words == "common" else (),
        latin=shipped("english")["words"],
        alphabet=_alphabet(settings, language),
        lengths=settings.lengths,
        lists={},
        held_out=settings.held_out,
        split=settings.split,
        fonts=fonts,
        lines=lines,
    )
    return evolve(empty, lists=empty.with_lists(shipped(language)["lists"]))


@lru_cache(maxsize=2)
def shipped(language: str) -> dict[str, Any]:
    """``words``, ``lists`` and ``values`` (what stands in a field of a label) of the file beside this one."""
    text = (files("qi_plugins.source_synthetic") / "vocabulary.toml").read_text(encoding="utf-8")
    part = tomllib.loads(text)[language]
    return {
        "words": tuple(part["words"].split()),
        "lists": {name: tuple(texts) for name, texts in part["lists"].items()},
        "values": dict(part["values"]),
    }


def _english(vocabulary: Vocabulary) -> bool:
    return vocabulary.language == "english"


def _cased(case: Case, place: int) -> Case:
    if case == "sentence":
        return "title" if place == 0 else "lower"
    return case


def _in_case(word: str, case: Case) -> str:
    return {"title": word.capitalize, "upper": word.upper}.get(case, lambda: word)()


def _has(font: str, text: str) -> bool:
    return typeface.characters(font).issuperset(text.replace(" ", ""))
