"""Which strings there are, and which of them are held out of training."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from random import Random
from typing import Literal, Protocol, TypeAlias

from attrs import field, frozen

from qi_core import QiError

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
    lines = (files("qi_plugins.source_text") / "characters.txt").read_text(encoding="utf-8").splitlines()
    return "".join(line for line in lines if not line.startswith("#"))


def pick(dice: Random, count: int) -> int:
    """A number below ``count``. ``random()`` alone is promised to be the same in all versions of Python."""
    return int(dice.random() * count)


def confused(text: str, look_alikes: Sequence[str], part: float, dice: Random) -> str:
    """Each character that stands in a group becomes another one of it with probability ``part``."""
    groups = {character: group for group in look_alikes for character in group}
    drawn = ""
    for character in text:
        others = groups.get(character, "").replace(character, "")
        if others and dice.random() < part:
            character = others[pick(dice, len(others))]
        drawn += character
    return drawn


class Strings(Protocol):
    """Where strings come from."""

    def choose(self, n: int, dice: Random) -> str:
        """The n-th string; may use ``dice``."""
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
            f"rendered-text: {TRIES} random strings of {length} characters, none of them belongs to split "
            f"'{self.split}'; change 'lengths' or 'held_out'"
        )


@frozen(kw_only=True, eq=False)
class Lines:
    """The lines of a file, shuffled anew each time round."""

    lines: tuple[str, ...]
    seed: int
    _order: dict[int, list[int]] = field(factory=dict, init=False)

    def choose(self, n: int, dice: Random) -> str:
        epoch, index = divmod(n, len(self.lines))
        if epoch not in self._order:
            order = list(range(len(self.lines)))
            shuffling = Random(f"{self.seed}/lines/{epoch}")
            for last in range(len(order) - 1, 0, -1):  # Fisher and Yates
                other = pick(shuffling, last + 1)
                order[last], order[other] = order[other], order[last]
            self._order.clear()
            self._order[epoch] = order
        return self.lines[self._order[epoch][index]]


def read_lines(path: Path) -> list[str]:
    """The lines that hold anything, without white space around them, each once."""
    try:
        text = path.read_text(encoding="utf-8-sig")
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
