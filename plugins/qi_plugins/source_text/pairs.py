"""Pairs of pictures of strings: the right one and one with a look-alike in it."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

from attrs import define, field

from qi_core import Pair, Pairs, Ticket
from qi_core.drawing import Passed, Rejected, drawn
from qi_core.strings import pick
from qi_plugins.source_text.component import RenderedPairs
from qi_plugins.source_text.confusing import confused
from qi_plugins.source_text.live import TextSource
from qi_plugins.source_text.live import build as build_text


@define(kw_only=True, eq=False)
class PairSource:
    """A live ``rendered-pairs``: the n-th string of its text source, twice."""

    text: TextSource
    gives: type = field(default=Pairs, init=False)
    _passed: Passed = field(factory=Passed, init=False)

    def plan(self, count: int) -> list[Ticket]:
        return self.text.plan(count)

    def cost(self, ticket: Ticket) -> int:
        return 2 * self.text.cost(ticket)

    def called(self, ticket: Ticket) -> str:
        return self.text.called(ticket)

    def make(self, ticket: Ticket) -> Pair:
        winner, n = self.text.make(ticket), ticket[0]
        wrong = self._wrong(winner.text, n)
        if wrong is None:
            raise Rejected(
                "holds no character that has a look-alike",
                f"{winner.text}; name look_alikes of the alphabet's own characters",
            )
        if not self.text.belongs(wrong):
            raise Rejected("has a look-alike that is of the other split", wrong)
        loser = self.text.sample(n, instead=wrong)
        if loser is None:
            raise self.text.misfit()
        return Pair(key=winner.key, prompt=winner.prompt, winner=winner.image, loser=loser.image)

    def other(self, ticket: Ticket, attempt: int) -> Ticket:
        return self.text.other(ticket, attempt)

    def made_of(self) -> dict[str, str]:
        """See ``qi_core.source.OfFiles``."""
        return self.text.made_of()

    def draw(self, count: int) -> Pairs:
        return drawn(self, count, self._passed)  # type: ignore[no-any-return]

    def state_dict(self) -> dict[str, Any]:
        return self.text.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.text.load_state_dict(state)

    def report(self) -> dict[str, int]:
        return dict(Counter(self.text.report()) + self._passed.counts)

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
