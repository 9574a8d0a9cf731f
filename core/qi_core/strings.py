"""Strings to draw in pictures: which there are, and which of them are held out of training. No torch here."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from random import Random
from typing import Literal, Protocol, TypeAlias

from attrs import define, field, frozen

from qi_core.errors import QiError
from qi_core.shuffling import another, number_of

Split: TypeAlias = Literal["train", "held-out"]
TRIES = 10_000
"""Random strings drawn in search of one that belongs to the split."""


def is_held_out(text: str, part: float) -> bool:
    """Whether a string is never trained on: its hash, seen as a number in [0, 1), is less than ``part``.

    Of the string alone, so raising ``part`` holds out more strings and frees none.
    """
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest(), "big") / 2**48 < part


def is_chinese(text: str) -> bool:
    """Whether any character is a Chinese one."""
    return any("\u3400" <= character <= "\u9fff" for character in text)


@lru_cache(maxsize=1)
def frequent() -> str:
    """The 512 most frequent Chinese characters, most frequent first (the file says by which count)."""
    lines = (files("qi_core") / "characters.txt").read_text(encoding="utf-8").splitlines()
    return "".join(line for line in lines if not line.startswith("#"))


def pick(dice: Random, count: int) -> int:
    """A number below ``count``. ``random()`` alone is promised to be the same in all versions of Python."""
    return int(dice.random() * count)


class Strings(Protocol):
    """Where strings come from."""

    def choose(self, n: int, dice: Random) -> str:
        """The n-th string; may use ``dice``."""
        ...

    def other(self, n: int, attempt: int) -> int:
        """The number of a string that stands in for the n-th, at the first, second ... attempt."""
        ...


@frozen(kw_only=True)
class RandomStrings:
    """Characters drawn alike, of lengths drawn alike."""

    alphabets: tuple[str, ...]
    lengths: tuple[int, int]
    held_out: float
    split: Split

    def choose(self, n: int, dice: Random) -> str:
        shortest, longest = self.lengths
        wanted = self.split == "held-out"
        alphabet = self.alphabets[pick(dice, len(self.alphabets))]
        length = shortest + pick(dice, longest - shortest + 1)
        for _ in range(TRIES):
            text = "".join(alphabet[pick(dice, len(alphabet))] for _ in range(length))
            if is_held_out(text, self.held_out) == wanted:
                return text
        raise QiError(
            f"{TRIES} random strings of {length} characters, none of them belongs to split "
            f"'{self.split}'; change 'lengths' or 'held_out'"
        )

    def other(self, n: int, attempt: int) -> int:
        """One that no run comes to by itself."""
        return 2**62 + number_of(f"{n}/{attempt}") // 4


@define(kw_only=True, eq=False)
class Lines:
    """The lines of a file, shuffled anew each time round."""

    lines: tuple[str, ...]
    seed: int
    _orders: dict[int, list[int]] = field(factory=dict, init=False)
    """Of the last epochs: samples of two may be made at once."""

    def choose(self, n: int, dice: Random) -> str:
        epoch, index = divmod(n, len(self.lines))
        order = self._orders.get(epoch)
        if order is None:
            order = list(range(len(self.lines)))
            shuffling = Random(f"{self.seed}/lines/{epoch}")
            for last in range(len(order) - 1, 0, -1):  # Fisher and Yates
                other = pick(shuffling, last + 1)
                order[last], order[other] = order[other], order[last]
            for old in [each for each in list(self._orders) if each < epoch - 1]:
                self._orders.pop(old, None)
            self._orders[epoch] = order
        return self.lines[order[index]]

    def __len__(self) -> int:
        return len(self.lines)

    def other(self, n: int, attempt: int) -> int:
        """Of the same epoch."""
        count = len(self.lines)
        return n // count * count + another(f"{self.seed}/{n}/stands in", n % count, attempt, count)


def lines_of(path: Path | None) -> str:
    """What messages call the file of lines; see ``qi_core.source.OfFiles``."""
    return f"text = '{path}'"


def read_lines(path: Path) -> list[str]:
    """The lines that hold anything, without white space around them, each once."""
    try:
        text = path.expanduser().read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise QiError(f"{path}: not UTF-8 (byte {error.start}); save it as UTF-8") from error
    except OSError as error:
        raise QiError(f"{path}: cannot be read ({error.strerror}); 'text' names a UTF-8 file of lines") from error
    return list(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))


def usable(lines: Iterable[str], coverages: Iterable[frozenset[str]], skipped: Counter[str]) -> list[str]:
    """Lines that can be quoted and that one font can draw whole; the others are counted by reason."""
    kept, coverages = [], tuple(coverages)
    for line in lines:
        if any(quote in line for quote in '"“”'):
            skipped["holds a double quote"] += 1
        elif not any(covered.issuperset(line.replace(" ", "")) for covered in coverages):
            skipped["holds a character that no font has"] += 1
        else:
            kept.append(line)
    return kept
