"""The component: what a recipe says about a set of pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from attrs import frozen

from qi_core.data import Samples
from qi_core.errors import QiError
from qi_core.fitting import CaptionKey, Fitting, own_first
from qi_core.place import Place

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterator

    from qi_core.entries import Entry
    from qi_core.fit import Fit
    from qi_core.listing import Listing
    from qi_core.skipped import Skip, Skipped
    from qi_core.source import Source
    from qi_plugins.source_images.find import Found

AT_START = 20_000
"""Samples whose captions and headers are read in a few seconds."""
PROBES = 1000
"""Samples that are looked at, of many, before it is said that nothing is usable."""


@frozen(kw_only=True, field_transformer=own_first)
class Images(Fitting):
    """Pictures with captions: a folder, a JSONL or tar shards, each picture near its own shape and never squashed."""

    gives: ClassVar[type] = Samples

    path: str
    """A folder (a.png with a.txt beside it, subfolders too), a .jsonl (``image`` or ``file_name``; ``caption``,
    ``text`` or ``prompt``; ``references``: paths of pictures to edit), a .tar in the WebDataset layout, or a pattern
    for several (``shards/*.tar``). Paths inside a JSONL count from its folder."""
    caption_keys: tuple[CaptionKey, ...] = ()
    """Of a JSONL, and of the .json in shards: several captions of one picture, each by the key that it stands under.
    Every epoch takes one of those that are there, by their shares; where none of them is, the ``caption`` stands. The
    report trains on three: raw, recaptioned and fused (section 3, stage 3 of the data)."""
    checked: Literal["auto", "start", "drawn"] = "auto"
    """When captions and headers are read. ``start``: all of them before the first draw, so that what can't be used is
    told at once and never drawn. ``drawn``: each when it is drawn, and another sample stands in for one that can't be
    used, so that a start takes seconds however many there are. ``auto``: at the start up to 20 000 samples, and where
    categories are counted."""

    def build(self, place: Place, multiple: int) -> Source[Samples]:
        """Finds the samples, and reads captions and headers where they are to be ``checked`` at the start.

        Raises QiError if nothing is usable.
        """
        from qi_core.repeats import Repeats
        from qi_core.shuffling import Fingerprint, Shuffled
        from qi_core.skipped import Skipped

        fit, skipped = self.fit(place.seed, multiple), Skipped(place.folder, self.path)
        weights = self.weighing(place.even)
        usable = self.scan(fit, skipped)
        repeats = None
        if weights:
            repeats = Repeats(
                weights.of_all([entry.key for entry, _ in usable], repr(self.path)), fit.seed, self.weights_file
            )
        return Shuffled(
            gives=Samples,
            path=self.path,
            entries=[entry for entry, _ in usable],
            fingerprint=Fingerprint.of([(entry.key, digest) for entry, digest in usable]),
            make=fit.make,
            cost=fit.cost,
            named=fit.named,
            seed=fit.seed,
            skipped=skipped,
            changed=self.changed,
            workers=self.workers,
            repeats=repeats,
        )

    def scan(self, fit: Fit, skipped: Skipped, categories: bool = False) -> list[tuple[Entry, bytes]]:
        """The usable samples, as far as it is to be known at the start, each with a digest. Raises QiError if there is
        none."""
        from qi_core.shuffling import scan
        from qi_plugins.source_images.find import find

        shares = [(each.key, each.share) for each in self.caption_keys]
        found = find(self.path, self.caption_extension, fit.limits, skipped, categories, shares)
        at_start = self.checked == "start" or (
            self.checked == "auto" and (categories or len(found.entries) <= AT_START)
        )
        check = fit.check if at_start else fit.note
        usable = [noted for _, noted in scan(found.entries, check, self.workers, skipped)]
        if not usable or not (at_start or self._some_usable(usable, fit, skipped)):
            raise self._nothing(found, skipped.counts)
        return usable

    def stored(self, skip: Skip) -> list[Entry]:
        """See ``qi_core.annotation.pictures.Stored``."""
        from qi_plugins.source_images.find import find

        found = find(self.path, self.caption_extension, self.fit(0, 1).limits, skip, categories=True)
        if not found.entries:
            raise self._nothing(found)
        return found.entries

    def entries(self, multiple: int) -> Iterator[Listing]:
        """See ``qi_core.listing.Listed``."""
        from pathlib import Path

        from qi_core.listing import Listing, Problem
        from qi_plugins.source_images.find import find
        from qi_plugins.source_images.listing import listed

        told: list[Listing] = []

        def skip(key: str, reason: str, detail: str = "") -> None:
            told.append(Listing(key=key, problems=(Problem(reason=reason, detail=detail),)))

        fit = self.fit(0, multiple)
        found = find(self.path, self.caption_extension, fit.limits, skip)
        if not found.entries and not told:
            raise self._nothing(found)
        return listed(found, told, Path(self.path).expanduser(), self.caption_extension, fit, self.workers)

    def _some_usable(self, noted: list[tuple[Entry, bytes]], fit: Fit, skipped: Skipped) -> bool:
        """Whether there is a usable one among some that lie far apart; if not, they are skipped with their reason."""
        from qi_core.pixels import Unusable

        failures: list[tuple[str, Unusable]] = []
        for entry, _ in noted[:: -(-len(noted) // PROBES)]:
            try:
                fit.check(entry)
                return True
            except Unusable as error:
                failures.append((entry.key, error))
        for key, failed in failures:
            skipped(key, failed.reason, failed.detail)
        return False

    def _nothing(self, found: Found, skipped: Counter[str] | None = None) -> QiError:
        """One line: what was found, what was wanted, what to do."""
        from qi_core.entries import EXTENSIONS

        if skipped:
            reasons = ", ".join(f"{count} x {reason}" for reason, count in skipped.most_common(5))
            some = skipped.total() < len(found.entries)
            looked = f" of {skipped.total()} that were looked at" if some else ""
            return QiError(
                f"source.path = {self.path!r}: {len(found.entries)} samples found, none usable{looked}: {reasons}; "
                f"side = {self.side}, upscale = '{self.upscale}', captions = '{self.captions}'; "
                "each with its reason is in skipped.jsonl in the run's folder"
            )
        seen = ", ".join(f"{count} {extension}" for extension, count in found.seen.most_common(8)) or "no file at all"
        hint = "; for shards set path = '<folder>/*.tar'" if ".tar" in found.seen else ""
        return QiError(
            f"source.path = {self.path!r}: no pictures there (seen: {seen}); wanted {' '.join(EXTENSIONS)} with "
            f"captions in {self.caption_extension} files of the same name, subfolders too{hint}"
        )
