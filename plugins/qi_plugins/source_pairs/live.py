"""The live source."""

from __future__ import annotations

from qi_core.data import Pair, Pairs
from qi_core.shuffling import Shuffled
from qi_plugins.source_pairs.rows import Couple


class PairSource(Shuffled[Couple, Pair]):
    """Pairs of what was found, an order for every epoch."""

    def draw(self, count: int) -> Pairs:
        """See ``Source.draw``."""
        return Pairs(items=tuple(self.take(count)))
