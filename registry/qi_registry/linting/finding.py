"""What a rule is, and what it finds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from attrs import define, field, frozen

from qi_core.listing import Listing

SHOWN = 5
"""Examples of a finding."""


@frozen(kw_only=True)
class Finding:
    """One kind of mistake in one source."""

    rule: str
    what: str
    """In words, with the numbers."""
    count: int
    of: int
    examples: tuple[str, ...]
    advice: str
    """What to do."""


class Rule(Protocol):
    """Looks for one kind of mistake."""

    def see(self, listing: Listing) -> None: ...

    def findings(self, seen: int) -> Iterable[Finding]:
        """Once all are seen, so many."""
        ...


@define
class Tally:
    """How many, and some of them."""

    count: int = 0
    examples: list[str] = field(factory=list)

    def add(self, example: str) -> None:
        self.count += 1
        if len(self.examples) < SHOWN:
            self.examples.append(example)

    def finding(self, rule: str, what: str, seen: int, advice: str) -> list[Finding]:
        """None where nothing was counted."""
        if not self.count:
            return []
        return [Finding(rule=rule, what=what, count=self.count, of=seen, examples=tuple(self.examples), advice=advice)]


def short(text: str, most: int = 60) -> str:
    """For an example: on one line."""
    line = " ".join(text.split())
    return repr(line if len(line) <= most else line[: most - 1] + "…")
