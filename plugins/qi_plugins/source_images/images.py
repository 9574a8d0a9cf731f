"""The component: what a recipe says about a set of pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from attrs import field, frozen, validators

from qi_core.data import Samples
from qi_core.errors import QiError
from qi_core.place import Place
from qi_core.sizes import PILLOWS_OWN_LIMIT, some_ratios

if TYPE_CHECKING:
    from qi_core.skipped import Skipped
    from qi_core.source import Source
    from qi_plugins.source_images.entry import Entry
    from qi_plugins.source_images.find import Found
    from qi_plugins.source_images.fit import Fit

AT_START = 20_000
"""Samples whose captions and headers are read in a few seconds."""
PROBES = 1000
"""Samples that are looked at, of many, before it is said that nothing is usable."""


@frozen(kw_only=True)
class Images:
    """Pictures with captions: a folder, a JSONL or tar shards, each picture near its own shape and never squashed."""

    gives: ClassVar[type] = Samples

    path: str
    """A folder (a.png with a.txt beside it, subfolders too), a .jsonl (``image`` or ``file_name``; ``caption``,
    ``text`` or ``prompt``; ``references``: paths of pictures to edit), a .tar in the WebDataset layout, or a pattern
    for several (``shards/*.tar``). Paths inside a JSONL count from its folder."""
    side: int = field(default=256, validator=validators.gt(0))
    """Area of the pictures, told as the side of a square in pixels: 256 means about 256*256, whatever the shape."""
    ratios: tuple[str, ...] = field(
        default=("1:1", "2:3", "3:2", "3:4", "4:3", "9:16", "16:9", "1:3", "3:1"), validator=some_ratios
    )
    """Shapes, width:height. A picture goes to the nearest one: scaled until it covers it, then cropped."""
    crop: Literal["center", "random"] = "center"
    """Where what doesn't fit is cut off. ``random``: elsewhere in each epoch, the same on every resume."""
    max_cropped: float = field(default=0.5, validator=[validators.ge(0), validators.le(1)])
    """Skip a picture of which a larger share than this would be cut off. 1: never skip."""
    upscale: Literal["skip", "allow"] = "skip"
    """What happens to a picture smaller than its bucket."""
    flip: bool = False
    """Mirror half of the samples, with their references. Not where pictures hold text or captions say left or right."""
    captions: Literal["require", "empty"] = "require"
    """A sample without a caption is skipped (``require``) or trained without words (``empty``)."""
    caption_extension: str = field(default=".txt", validator=validators.matches_re(r"\.\w+"))
    """What the file of a caption ends in, in folders and in shards."""
    reference_side: int = field(default=0, validator=validators.ge(0))
    """Area of references, as ``side``; 0: the same. They keep their own shape and, with upscale = "skip", are never
    enlarged."""
    background: tuple[int, int, int] = field(
        default=(255, 255, 255),
        validator=validators.deep_iterable(validators.and_(validators.ge(0), validators.le(255))),
    )
    """Red, green and blue under transparent pictures."""
    changed: Literal["refuse", "next-epoch"] = "refuse"
    """What a resume does when the data is not what it was: refuse, or go on (from the next epoch if samples came or
    went)."""
    checked: Literal["auto", "start", "drawn"] = "auto"
    """When captions and headers are read. ``start``: all of them before the first draw, so that what can't be used is
    told at once and never drawn. ``drawn``: each when it is drawn, and another sample stands in for one that can't be
    used, so that a start takes seconds however many there are. ``auto``: at the start up to 20 000 samples, and where
    categories are counted."""
    workers: int = field(default=4, validator=validators.gt(0))
    """Threads that decode. Has no effect on what is drawn."""
    max_pixels: int = field(default=64_000_000, validator=[validators.gt(0), validators.le(PILLOWS_OWN_LIMIT)])
    """A picture that claims more is skipped before anything of it is decoded."""
    max_file: int = field(default=256 * 2**20, validator=validators.gt(0))
    """Bytes of a picture's file; a larger one is skipped."""
    max_caption: int = field(default=16_384, validator=validators.gt(0))
    """Bytes of a caption; a longer one is skipped, never cut."""
    max_line: int = field(default=2**20, validator=validators.gt(0))
    """Bytes of a line of a JSONL, and of a .json in a shard."""

    def sides(self) -> tuple[int, ...]:
        """See ``qi_core.planning.Shown``."""
        return (self.side,)

    def build(self, place: Place, multiple: int) -> Source[Samples]:
        """Finds the samples, and reads captions and headers where they are to be ``checked`` at the start.

        Raises QiError if nothing is usable.
        """
        from qi_core.shuffling import Fingerprint, Shuffled
        from qi_core.skipped import Skipped

        fit, skipped = self.fit(place.seed, multiple), Skipped(place.folder, self.path)
        usable = self.scan(fit, skipped)
        return Shuffled(
            gives=Samples,
            path=self.path,
            entries=[entry for entry, _ in usable],
            fingerprint=Fingerprint.of([(entry.key, digest) for entry, digest in usable]),
            make=fit.make,
            cost=fit.cost,
            seed=fit.seed,
            skipped=skipped,
            changed=self.changed,
            workers=self.workers,
        )

    def scan(self, fit: Fit, skipped: Skipped, categories: bool = False) -> list[tuple[Entry, bytes]]:
        """The usable samples, as far as it is to be known at the start, each with a digest. Raises QiError if there is
        none."""
        from qi_core.shuffling import scan
        from qi_plugins.source_images.find import find

        found = find(self.path, self.caption_extension, fit.limits, skipped, categories)
        at_start = self.checked == "start" or (
            self.checked == "auto" and (categories or len(found.entries) <= AT_START)
        )
        check = fit.check if at_start else fit.note
        usable = [noted for _, noted in scan(found.entries, check, self.workers, skipped)]
        if not usable or not (at_start or self._some_usable(usable, fit, skipped)):
            raise self._nothing(found, skipped)
        return usable

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

    def fit(self, seed: int, multiple: int) -> Fit:
        """What makes samples fit, and says which can't."""
        from qi_core.sizes import bucket, parse_ratio
        from qi_plugins.source_images.entry import Limits
        from qi_plugins.source_images.fit import Fit

        return Fit(
            buckets=tuple(bucket(self.side**2, parse_ratio(ratio), multiple) for ratio in self.ratios),
            reference_area=(self.reference_side or self.side) ** 2,
            multiple=multiple,
            enlarge=self.upscale == "allow",
            max_cropped=self.max_cropped,
            random_crop=self.crop == "random",
            flip=self.flip,
            captions=self.captions,
            background=self.background,
            limits=Limits(pixels=self.max_pixels, file=self.max_file, caption=self.max_caption, line=self.max_line),
            seed=seed,
        )

    def _nothing(self, found: Found, skipped: Skipped) -> QiError:
        """One line: what was found, what was wanted, what to do."""
        from qi_plugins.source_images.entry import EXTENSIONS

        if skipped.counts:
            reasons = ", ".join(f"{count} x {reason}" for reason, count in skipped.counts.most_common(5))
            some = skipped.counts.total() < len(found.entries)
            looked = f" of {skipped.counts.total()} that were looked at" if some else ""
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
