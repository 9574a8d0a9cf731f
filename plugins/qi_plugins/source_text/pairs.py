"""Pairs of pictures of strings: the right one and one with a look-alike in it."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

from attrs import define, field

from qi_core import Pair, Pairs, QiError
from qi_plugins.source_text.component import RenderedPairs
from qi_plugins.source_text.live import FRUITLESS, TextSource
from qi_plugins.source_text.live import build as build_text
from qi_plugins.source_text.strings import confused, pick


@define(kw_only=True, eq=False)
class PairSource:
    """A live ``rendered-pairs``: the n-th string of its text source, twice."""

    text: TextSource
    _n: int = 0
    _skipped: Counter[str] = field(factory=Counter)

    def draw(self, count: int) -> Pairs:
        """See ``Source.draw``."""
        return Pairs(items=tuple(self._next() for _ in range(count)))

    def state_dict(self) -> dict[str, Any]:
        return {"n": self._n, "skipped": dict(self._skipped)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._n, self._skipped = int(state["n"]), Counter(state["skipped"])

    def report(self) -> dict[str, int]:
        return dict(Counter(self.text.report()) + self._skipped)

    def _next(self) -> Pair:
        for _ in range(FRUITLESS):
            n, self._n = self._n, self._n + 1
            pair = self._pair(n)
            if isinstance(pair, Pair):
                return pair
            self._skipped[pair] += 1
        raise QiError(
            f"rendered-pairs: {FRUITLESS} strings in a row could not be used, the last because it {pair}; "
            "name look_alikes of the alphabet's own characters"
        )

    def _pair(self, n: int) -> Pair | str:
        """The n-th pair, or why its string cannot be used."""
        winner = self.text.sample(n)
        if winner is None:
            return "does not fit the picture"
        wrong = self._wrong(winner.text, n)
        if wrong is None:
            return "holds no character that has a look-alike"
        if not self.text.belongs(wrong):
            return "has a look-alike that is of the other split"
        loser = self.text.sample(n, instead=wrong)
        if loser is None:
            return "does not fit the picture"
        return Pair(key=winner.key, prompt=winner.prompt, winner=winner.image, loser=loser.image)

    def _wrong(self, text: str, n: int) -> str | None:
        """The string with at least one character taken for another of its group; more are by even chances."""
        groups = self.text.settings.look_alikes
        places = [place for place, character in enumerate(text) if any(character in group for group in groups)]
        if not places:
            return None
        dice = Random(f"{self.text.seed}/pairs/{n}")
        sure = places[pick(dice, len(places))]
        return "".join(
            confused(character, groups, 1.0 if place == sure else 0.5, dice) for place, character in enumerate(text)
        )


def build(settings: RenderedPairs, seed: int, multiple: int) -> PairSource:
    """The live source. Raises QiError where its text cannot be drawn."""
    return PairSource(text=build_text(settings.text, seed, multiple))
