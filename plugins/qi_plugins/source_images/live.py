"""The live source: an order for every epoch, decoding by a pool of threads, a position that can be saved."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

from attrs import frozen

from qi_core.data import Sample, Samples
from qi_core.errors import QiError
from qi_core.pixels import Unusable
from qi_plugins.source_images.entry import Entry
from qi_plugins.source_images.fit import Fit, permutation
from qi_plugins.source_images.skipped import Skipped

_PATIENCE = 1000  # unusable samples in a row after which something larger must be wrong (a disk that is gone)


@frozen(kw_only=True)
class Fingerprint:
    """Tells whether a data set is the one of the checkpoint."""

    keys: str
    """Which samples there are."""
    contents: str
    """The same with captions and sizes."""


class ImageSource:
    """Position p of epoch e is one entry of that epoch's permutation; entries that prove broken are passed over."""

    def __init__(
        self,
        *,
        path: str,
        entries: Sequence[Entry],
        fingerprint: Fingerprint,
        fit: Fit,
        skipped: Skipped,
        changed: Literal["refuse", "next-epoch"],
        workers: int,
    ) -> None:
        self._path, self._entries, self._fingerprint = path, entries, fingerprint
        self._fit, self._skipped, self._changed = fit, skipped, changed
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="qi-images")
        self._epoch = self._index = 0
        self._order = permutation(fit.seed, 0, len(entries))
        self._scanned = Counter(skipped.counts)
        self._broken: dict[int, str] = {}
        """Reasons of entries that were found unusable after the scan, by number."""

    def draw(self, count: int) -> Samples:
        items: list[Sample] = []
        lost = 0
        while len(items) < count:
            # As many as are missing and no more, so that the position does not depend on the size of batches.
            wanted = [self._next() for _ in range(count - len(items))]
            for (_, number), made in zip(wanted, self._pool.map(self._make, wanted), strict=True):
                if isinstance(made, Sample):
                    items.append(made)
                    lost = 0
                else:
                    self._lose(number, made)
                    lost += 1
                    if lost == _PATIENCE:
                        raise QiError(
                            f"source.path = {self._path!r}: {lost} samples in a row could not be used, the last "
                            f"because {made.reason} ({made.detail}); check that the data is still there"
                        )
        return Samples(items=tuple(items))

    def state_dict(self) -> dict[str, Any]:
        return {
            "epoch": self._epoch,
            "index": self._index,
            "samples": len(self._entries),
            "keys": self._fingerprint.keys,
            "contents": self._fingerprint.contents,
            "broken": [[number, reason] for number, reason in self._broken.items()],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        same_keys = state["keys"] == self._fingerprint.keys
        if state["contents"] != self._fingerprint.contents and self._changed == "refuse":
            what = "captions or pictures are others" if same_keys else f"now {len(self._entries)}, not all the same"
            raise QiError(
                f"source.path = {self._path!r}: the data changed since the checkpoint ({state['samples']} usable "
                f"samples then, {what}); put it back, or set source.changed = 'next-epoch' to go on with what is there"
            )
        if same_keys:
            self._epoch, self._index = state["epoch"], state["index"]
            self._broken = dict(state["broken"])
        else:  # the place in an order of other samples means nothing
            self._epoch, self._index, self._broken = state["epoch"] + 1, 0, {}
        self._order = permutation(self._fit.seed, self._epoch, len(self._entries))

    def report(self) -> dict[str, int]:
        return dict(self._scanned + Counter(list(self._broken.values())))

    def _next(self) -> tuple[int, int]:
        """Epoch and number of the next entry not known to be broken."""
        if len(self._broken) == len(self._entries):
            reasons = ", ".join(f"{count} {reason}" for reason, count in Counter(self._broken.values()).most_common(3))
            raise QiError(f"source.path = {self._path!r}: no usable sample is left ({reasons}); check the data")
        while True:
            if self._index == len(self._entries):
                self._epoch, self._index = self._epoch + 1, 0
                self._order = permutation(self._fit.seed, self._epoch, len(self._entries))
            number = int(self._order[self._index])
            self._index += 1
            if number not in self._broken:
                return self._epoch, number

    def _make(self, place: tuple[int, int]) -> Sample | Unusable:
        epoch, number = place
        try:
            return self._fit.make(self._entries[number], epoch)
        except Unusable as error:
            return error

    def _lose(self, number: int, error: Unusable) -> None:
        if number not in self._broken:
            self._broken[number] = error.reason
            self._skipped(self._entries[number].key, error.reason, error.detail)
