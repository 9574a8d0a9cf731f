"""Rules on captions."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import PurePosixPath

from attrs import define, field

from qi_core.listing import Listing
from qi_registry.linting.finding import Finding, Tally, short

MANY = 10
"""Samples with one caption that are too many whatever the size of the set."""
RARE = 0.1
"""Share below which a language is taken to be there by mistake."""
_SCRIPTS = {
    "Japanese": r"\u3040-\u30ff",
    "Chinese": r"\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff",
    "Korean": r"\u1100-\u11ff\uac00-\ud7af",
    "Cyrillic": r"\u0400-\u04ff",
    "Greek": r"\u0370-\u03ff",
    "Arabic": r"\u0600-\u06ff",
    "Hebrew": r"\u0590-\u05ff",
    "Indic": r"\u0900-\u0dff",
    "Thai": r"\u0e00-\u0e7f",
    "Latin": r"A-Za-z\u00c0-\u024f",
}
_LETTERS = {name: re.compile(f"[{signs}]") for name, signs in _SCRIPTS.items()}
_CAMERAS = re.compile(r"(img|dsc[fn]?|dscn|p|pxl|mvi|screenshot|image|photo|untitled)[-_ ]?\d[\d_ -]*", re.I)
_ENDING = re.compile(r"\S+\.(png|jpe?g|webp|gif|bmp|tiff?|avif)", re.I)
_EDITS = re.compile(
    r"(please )?(make|change|replace|remove|add|turn|convert|transform|erase|delete|swap|edit|recolou?r|rotate) "
    r"(it|this|that|the|a|an|all|her|his|their|him|them|some|background)\b|(把|将|请将|请把|去掉|移除|删除|替换|添加)",
    re.I,
)


@define
class Missing:
    """No caption, or an empty one."""

    _found: Tally = field(factory=Tally)

    def see(self, listing: Listing) -> None:
        told = [problem.reason for problem in listing.problems if problem.reason.startswith("caption")]
        if "caption missing" in told or (listing.image and listing.caption is None and not told):
            self._found.add(listing.key)

    def findings(self, seen: int) -> Iterable[Finding]:
        return self._found.finding(
            "missing-captions",
            "no caption",
            seen,
            "write them (qi data annotate), set caption_extension to what they end in, or take the pictures out; "
            "captions = 'require' skips them, 'empty' trains them without words",
        )


@define
class FileNames:
    """Captions that nobody wrote."""

    _found: Tally = field(factory=Tally)

    def see(self, listing: Listing) -> None:
        caption = (listing.caption or "").strip()
        stem = PurePosixPath(listing.key).stem
        if caption and (
            caption in (stem, PurePosixPath(listing.key).name)
            or _ENDING.fullmatch(caption)
            or _CAMERAS.fullmatch(caption)
        ):
            self._found.add(f"{listing.key}: {short(caption)}")

    def findings(self, seen: int) -> Iterable[Finding]:
        return self._found.finding(
            "captions-are-file-names",
            "the caption is the name of a file",
            seen,
            "write captions (qi data annotate): a model learns nothing from these",
        )


@define
class TooLong:
    """Captions beyond what the conditioner takes."""

    limit: int
    count: Callable[[Sequence[str]], Sequence[int]]
    """Tokens of each."""
    counted: str
    """How, for the message."""
    _found: Tally = field(factory=Tally)
    _waiting: list[tuple[str, str]] = field(factory=list)
    _longest: int = 0

    def see(self, listing: Listing) -> None:
        if listing.caption and not listing.references:  # editing has no limit
            self._waiting.append((listing.key, listing.caption))
            if len(self._waiting) == 256:
                self._count()

    def _count(self) -> None:
        waiting, self._waiting = self._waiting, []
        for (key, caption), tokens in zip(waiting, self.count([text for _, text in waiting]), strict=True):
            if tokens > self.limit:
                self._longest = max(self._longest, tokens)
                self._found.add(
                    f"{key}: {tokens} tokens, of which {tokens - self.limit} go; begins {short(caption, 40)}"
                )

    def findings(self, seen: int) -> Iterable[Finding]:
        self._count()
        return self._found.finding(
            "captions-cut",
            f"the caption has more than {self.limit} tokens ({self.counted}), the longest {self._longest}",
            seen,
            f"raise conditioner.max_length (to {self._longest}), or shorten them: what stands at the end is never seen",
        )


@define
class SameCaption:
    """One caption for many pictures. Instructions for editing, and prompts of pairs, repeat by nature."""

    _keys: dict[str, list[str]] = field(factory=dict)
    _counts: Counter[str] = field(factory=Counter)

    def see(self, listing: Listing) -> None:
        if listing.caption and not listing.references and not listing.rival:
            self._counts[listing.caption] += 1
            keys = self._keys.setdefault(listing.caption, [])
            if len(keys) < 2:
                keys.append(listing.key)

    def findings(self, seen: int) -> Iterable[Finding]:
        many = {text: count for text, count in self._counts.items() if count >= 3}
        share = sum(many.values()) / max(seen, 1)
        shown = {text: count for text, count in many.items() if count >= MANY or share > 0.05}
        if not shown:
            return []
        told = sorted(shown.items(), key=lambda each: (-each[1], each[0]))
        found = Tally(
            sum(shown.values()),
            [f"{count} x {short(text)} ({', '.join(self._keys[text])}, ...)" for text, count in told[:5]],
        )
        return found.finding(
            "same-caption",
            f"{len(shown)} captions stand for several pictures each",
            seen,
            "describe what differs: one text for many pictures teaches their average",
        )


@define
class Languages:
    """A few captions in another script than the rest."""

    _found: dict[str, Tally] = field(factory=dict)

    def see(self, listing: Listing) -> None:
        if listing.caption and (script := script_of(listing.caption)):
            self._found.setdefault(script, Tally()).add(f"{listing.key}: {short(listing.caption)}")

    def findings(self, seen: int) -> Iterable[Finding]:
        total = sum(found.count for found in self._found.values())
        for script, found in sorted(self._found.items()):
            if found.count < RARE * total:
                main = max(self._found, key=lambda name: self._found[name].count)
                yield from found.finding(
                    "mixed-languages",
                    f"captions in {script} script among those in {main}",
                    seen,
                    f"if {script} is wanted, give it more (a source of its own in a mixture); else translate it",
                )


def script_of(text: str) -> str:
    """The one that most letters are of; empty if it has none. Kana anywhere make it Japanese."""
    counts = {name: len(letters.findall(text)) for name, letters in _LETTERS.items()}
    if counts["Japanese"]:
        return "Japanese"
    # A Chinese character says about as much as a word of three letters.
    counts["Chinese"] *= 3
    script = max(counts, key=lambda name: counts[name])
    return script if counts[script] else ""


@define
class EditsWithoutPicture:
    """Instructions to change a picture that is not there."""

    _found: Tally = field(factory=Tally)

    def see(self, listing: Listing) -> None:
        if listing.caption and not listing.references and _EDITS.match(listing.caption):
            self._found.add(f"{listing.key}: {short(listing.caption)}")

    def findings(self, seen: int) -> Iterable[Finding]:
        if self._found.count < max(3, 0.2 * seen):
            return []
        return self._found.finding(
            "edits-without-picture",
            "the caption asks for a change, and there is no picture to change",
            seen,
            "name the pictures to edit ('references' in a JSONL, name.ref0.png in a shard)",
        )
