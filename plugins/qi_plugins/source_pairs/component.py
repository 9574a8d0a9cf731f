"""The component: what a recipe says about a set of judged pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from attrs import field, frozen, validators

from qi_core.data import Pairs
from qi_core.fitting import PictureFiles, own_first
from qi_core.place import Place
from qi_core.sizes import some_ratios

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qi_core.errors import QiError
    from qi_core.listing import Listing
    from qi_core.skipped import Skipped
    from qi_core.source import Source
    from qi_plugins.source_pairs.fit import Fit
    from qi_plugins.source_pairs.rows import Reading


@frozen(kw_only=True, field_transformer=own_first)
class PreferencePairs(PictureFiles):
    """Pairs of pictures for one prompt, one of them preferred, from a JSONL of judgements.

    A row is {"prompt", "winner", "loser"}, or {"prompt", "gold", "loser"} where a real picture beats the worst
    generation, or {"prompt", "ranking": ["best.png", ["second.png", "as good.png"], "worst.png"]}; to any of them
    "references", pictures that were to be edited. "verdict": "all unsatisfactory" or "tie" is a row that teaches
    nothing: it is skipped and counted. Paths count from the JSONL's folder.
    """

    gives: ClassVar[type] = Pairs

    path: str
    """A .jsonl, or a pattern for several (``votes/*.jsonl``)."""
    pairs_of: Literal["all", "adjacent", "ends"] = "all"
    """Which pairs a ranking gives: every better one with every worse one, neighbours, or best with worst."""
    gold: Literal["if-missing", "also"] = "if-missing"
    """When a gold picture beats the loser (of a ranking, the last): where the row names no winner, or beside it."""
    split: Literal["train", "held-out", "all"] = "train"
    """Which prompts. ``held-out`` ones are never in ``train``, whatever the seed."""
    held_out: float = field(default=0.1, validator=[validators.ge(0), validators.le(1)])
    """Share of the prompts that are held out, decided by the prompt's own text."""
    side: int = field(default=256, validator=validators.gt(0))
    """Area of the pictures, told as the side of a square in pixels: 256 means about 256*256, whatever the shape."""
    ratios: tuple[str, ...] = field(
        default=("1:1", "2:3", "3:2", "3:4", "4:3", "9:16", "16:9", "1:3", "3:1"), validator=some_ratios
    )
    """Shapes: width:height at ``side``'s area, or sizes in pixels ("1664x928"). A pair goes to the one nearest to its
    winner: both pictures are scaled until they cover it, then cropped in the middle; never squashed."""
    max_cropped: float = field(default=0.5, validator=[validators.ge(0), validators.le(1)])
    """Skip a pair if a larger share than this of either picture would be cut off. 1: never skip."""
    upscale: Literal["skip", "allow"] = "skip"
    """What happens to a pair with a picture smaller than its bucket."""
    reference_side: int = field(default=0, validator=validators.ge(0))
    """Area of references, as ``side``; 0: the same. They keep their own shape."""
    max_prompt: int = field(default=16_384, validator=validators.gt(0))
    """Bytes of a prompt; a longer one is skipped, never cut."""
    max_line: int = field(default=2**20, validator=validators.gt(0))
    """Bytes of a line."""

    def sides(self) -> tuple[int, ...]:
        """See ``qi_core.planning.Shown``."""
        return (self.side,)

    def build(self, place: Place, multiple: int) -> Source[Pairs]:
        """Reads every row and every header. Raises QiError if nothing is usable."""
        from qi_core.shuffling import Fingerprint, Shuffled, scan
        from qi_core.skipped import Skipped

        fit, skipped = self._fit(multiple), Skipped(place.folder, self.path)
        found = self._reading().find(self.path, skipped)
        usable = [checked for _, checked in scan(found, fit.check, self.workers, skipped)]
        if not usable:
            raise self._nothing(len(found), skipped)
        return Shuffled(
            gives=Pairs,
            path=self.path,
            entries=[couple for couple, _ in usable],
            fingerprint=Fingerprint.of([(couple.key, digest) for couple, digest in usable]),
            make=lambda couple, _: fit.make(couple),
            cost=fit.cost,
            named=lambda couple, _: fit.named(couple),
            seed=place.seed,
            skipped=skipped,
            changed=self.changed,
            workers=self.workers,
        )

    def entries(self, multiple: int) -> Iterator[Listing]:
        """See ``qi_core.listing.Listed``."""
        from qi_core.listing import Listing, Problem
        from qi_plugins.source_pairs.listing import listed

        told: list[Listing] = []

        def skip(key: str, reason: str, detail: str = "") -> None:
            told.append(Listing(key=key, problems=(Problem(reason=reason, detail=detail),)))

        return listed(self._reading().find(self.path, skip), told, self._fit(multiple), self.workers)

    def _reading(self) -> Reading:
        from qi_plugins.source_pairs.rows import Reading

        return Reading(
            pairs_of=self.pairs_of,
            gold=self.gold,
            split=self.split,
            held_out=self.held_out,
            max_prompt=self.max_prompt,
            max_line=self.max_line,
        )

    def _fit(self, multiple: int) -> Fit:
        from qi_core.sizes import shaped
        from qi_plugins.source_pairs.fit import Fit

        return Fit(
            buckets=tuple(shaped(ratio, self.side**2, multiple) for ratio in self.ratios),
            reference_area=(self.reference_side or self.side) ** 2,
            multiple=multiple,
            enlarge=self.upscale == "allow",
            max_cropped=self.max_cropped,
            background=self.background,
            max_pixels=self.max_pixels,
            max_file=self.max_file,
        )

    def _nothing(self, found: int, skipped: Skipped) -> QiError:
        """One line: what was found, what was wanted, what to do."""
        from qi_core.errors import QiError

        reasons = ", ".join(f"{count} x {reason}" for reason, count in skipped.counts.most_common(5)) or "none skipped"
        return QiError(
            f"source.path = {self.path!r}: {found} pairs found in split = '{self.split}' (held_out = {self.held_out}), "
            f"none usable: {reasons}; wanted rows with prompt, winner and loser; each with its reason is in "
            "skipped.jsonl in the run's folder"
        )
