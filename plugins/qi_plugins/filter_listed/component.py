"""The settings of ``listed`` and ``category``, and how they measure."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from attrs import frozen

from qi_core.bar import Bar
from qi_core.data import Sample
from qi_core.keylist import keys_of, short
from qi_core.place import Place

if TYPE_CHECKING:
    from qi_core import Filter


@frozen(kw_only=True)
class Listed:
    """1 for a sample whose key stands in a file, else 0: what ``qi data duplicates`` found, what people crossed out.

    A line is a key, or a JSON object with a "key" (JSONL, as the passes of ``qi data`` write it).
    """

    path: Path
    """The list."""
    what: Literal["drop", "keep"] = "drop"
    """Whether those on the list are refused, or all others."""

    def build(self, place: Place) -> Filter:
        """Reads the list. Raises QiError if it cannot be read."""
        listed = frozenset(short(key) for key in keys_of(self.path.expanduser()))
        return OnList(listed=listed, drop=self.what == "drop")


@frozen(kw_only=True, eq=False)
class OnList:
    """A live ``listed``. It needs the key alone: see ``qi_core.filtering.ByKey``."""

    listed: frozenset[bytes]
    drop: bool
    """Whether those on it are refused."""

    def measure(self, sample: Sample) -> float:
        """See ``Filter.measure``."""
        return self.measure_key(sample.key)

    def measure_key(self, key: str) -> float:
        """1 if it is on the list, else 0."""
        return float(short(key) in self.listed)

    def refuses(self, value: float) -> str:
        """See ``Filter.refuses``."""
        if self.drop:
            return "on the list" if value == 1.0 else ""
        return "not on the list" if value == 0.0 else ""


@frozen(kw_only=True)
class InCategory:
    """1 for a sample of a category that is wanted, else 0. Nothing is said of samples without a category."""

    keep: tuple[str, ...] = ()
    """Categories; ``people`` stands for ``people/portrait`` too. Empty: all but those in ``drop``."""
    drop: tuple[str, ...] = ()
    """Categories that are refused."""

    def build(self, place: Place) -> Filter:
        return Bar(measuring=self.wanted, least=1.0, below="category not wanted")

    def wanted(self, sample: Sample) -> float:
        """1 or 0; NaN without a category."""
        if not sample.category:
            return float("nan")
        kept = not self.keep or _under(sample.category, self.keep)
        return float(kept and not _under(sample.category, self.drop))


def _under(category: str, roots: tuple[str, ...]) -> bool:
    return any(category == root or category.startswith(root.rstrip("/") + "/") for root in roots)
