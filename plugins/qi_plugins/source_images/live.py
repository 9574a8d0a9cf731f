"""The live source."""

from __future__ import annotations

from qi_core.data import Sample, Samples
from qi_core.shuffling import Shuffled
from qi_plugins.source_images.entry import Entry


class ImageSource(Shuffled[Entry, Sample]):
    """Samples of what was found, an order for every epoch."""

    def draw(self, count: int) -> Samples:
        """See ``Source.draw``."""
        return Samples(items=tuple(self.take(count)))
