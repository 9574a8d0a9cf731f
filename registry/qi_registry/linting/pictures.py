"""Rules on pictures."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from attrs import define, field

from qi_core.blob import Blob
from qi_core.entries import Held
from qi_core.listing import Listing, Pictured
from qi_core.pixels import Unusable
from qi_core.sizes import Size
from qi_registry.linting.finding import Finding, Tally

MOST = 2**30
"""Bytes of a file that are compared."""
STRONG = 0.25
"""Share cut off a picture that is much."""
_OUTPUTS = frozenset(
    ("after", "edited", "target", "tgt", "result", "output", "gt", "generated", "modified", "changed", "结果", "目标")
)
_INPUTS = frozenset(
    ("before", "source", "src", "input", "orig", "original", "raw", "cond", "ref", "reference", "unedited", "原图")
)
_OWN_RULES = ("caption missing", "too small", "crop would cut off too much", "reference: too small")


@define
class Unreadable:
    """What cannot be used at all, by reason."""

    _found: dict[str, Tally] = field(factory=dict)

    def see(self, listing: Listing) -> None:
        for problem in listing.problems:
            if problem.reason not in _OWN_RULES:
                told = f"{listing.key}: {problem.detail}" if problem.detail else listing.key
                self._found.setdefault(problem.reason, Tally()).add(told[:160])

    def findings(self, seen: int) -> Iterable[Finding]:
        for reason, found in sorted(self._found.items(), key=lambda each: -each[1].count):
            yield from found.finding(
                "unusable", reason, seen, "mend or remove them: they are passed over, and others drawn in their place"
            )


@define
class Enlarged:
    """Pictures smaller than what they are trained as."""

    _skipped: Tally = field(factory=Tally)
    _blurred: Tally = field(factory=Tally)

    def see(self, listing: Listing) -> None:
        small = [p for p in (listing.image, *listing.references, listing.rival) if p and p.scaled > 1 and p.size]
        if not small:
            return
        worst = max(small, key=lambda picture: picture.scaled)
        assert worst.size
        assert worst.target
        told = f"{listing.key}: {_shown(worst.size)} for {_shown(worst.target)}"
        skipped = any("too small" in problem.reason for problem in listing.problems)
        (self._skipped if skipped else self._blurred).add(told)

    def findings(self, seen: int) -> Iterable[Finding]:
        yield from self._skipped.finding(
            "too-small",
            "smaller than their bucket, and skipped",
            seen,
            "lower 'side', get larger pictures, or set upscale = 'allow' (they look soft, and so will the model's)",
        )
        yield from self._blurred.finding(
            "upscaled",
            "enlarged to their bucket",
            seen,
            "lower 'side', or set upscale = 'skip': what is enlarged looks soft, and so will what the model draws",
        )


@define
class Cropped:
    """Pictures of which much is cut off."""

    _found: Tally = field(factory=Tally)
    _skipped: int = 0

    def see(self, listing: Listing) -> None:
        image = listing.image
        if image and image.size and image.target and image.cropped > STRONG:
            self._skipped += any("crop" in problem.reason for problem in listing.problems)
            self._found.add(f"{listing.key}: {image.cropped:.0%} of {_shown(image.size)} for {_shown(image.target)}")

    def findings(self, seen: int) -> Iterable[Finding]:
        return self._found.finding(
            "strong-crop",
            f"more than {STRONG:.0%} of the picture is cut off"
            + (f" (of {self._skipped}, more than max_cropped allows: they are skipped)" if self._skipped else ""),
            seen,
            "add a ratio that is nearer to their shape: captions speak of what is no longer there",
        )


@define
class Buckets:
    """All pictures of one shape, or shapes with hardly any."""

    batch: int
    shapes: int
    """That the source has."""
    _found: Counter[Size] = field(factory=Counter)

    def see(self, listing: Listing) -> None:
        if listing.image and listing.image.target and not listing.problems:
            self._found[listing.image.target] += 1

    def findings(self, seen: int) -> Iterable[Finding]:
        total = self._found.total()
        if len(self._found) == 1 and self.shapes > 1 and total >= 20:
            (only,) = self._found
            yield Finding(
                rule="one-bucket",
                what=f"all pictures fall into one of {self.shapes} shapes, {_shown(only)}",
                count=total,
                of=seen,
                examples=(),
                advice="if they were cropped to it beforehand, take the originals: no other shape is learned; if it is "
                "meant, set 'ratios' to it alone",
            )
        few = {size: count for size, count in self._found.items() if count < self.batch and count < 0.01 * total}
        if few:
            yield Finding(
                rule="small-buckets",
                what=f"{len(few)} shapes have fewer pictures than a batch ({self.batch}) and less than 1 % of all",
                count=sum(few.values()),
                of=seen,
                examples=tuple(f"{_shown(size)}: {count}" for size, count in sorted(few.items())[:5]),
                advice="add pictures of these shapes or leave their ratios out: what is seen so rarely is not learned",
            )


@define
class Transparent:
    """Pictures that are seen through."""

    background: str
    _found: Tally = field(factory=Tally)

    def see(self, listing: Listing) -> None:
        image = listing.image
        if image and image.alpha and _seen_through(image.stored):
            self._found.add(listing.key)

    def findings(self, seen: int) -> Iterable[Finding]:
        return self._found.finding(
            "transparent",
            f"transparent pictures, which are laid on {self.background}",
            seen,
            "see that captions speak of that ground, set 'background', or leave them out",
        )


@define
class SameBytes:
    """The same file twice. Files of one length are read, others are not. A picture that is named several times, for
    several captions, is no copy."""

    _found: Tally = field(factory=Tally)
    _lengths: dict[int, tuple[str, Blob] | None] = field(factory=dict)
    """The first file of a length, until there is a second one."""
    _digests: dict[bytes, str] = field(factory=dict)
    _places: set[tuple[str, int]] = field(factory=set)

    def see(self, listing: Listing) -> None:
        if listing.image is None or listing.image.length > MOST:
            return
        stored, length = listing.image.stored, listing.image.length
        if (stored.path, stored.offset) in self._places:
            return
        self._places.add((stored.path, stored.offset))
        try:
            if not isinstance(stored, Held):  # what is in memory anyway is not held on to
                if length not in self._lengths:
                    self._lengths[length] = (listing.key, stored)
                    return
                if (first := self._lengths[length]) is not None:
                    self._lengths[length] = None
                    self._digest(first[0], Pictured(length=length, stored=first[1]))
            self._digest(listing.key, listing.image)
        except Unusable:  # gone meanwhile: told when it is trained on
            return

    def _digest(self, key: str, picture: Pictured) -> None:
        first = self._digests.setdefault(picture.digest(MOST), key)
        if first != key:
            self._found.add(f"{key} is {first}")

    def findings(self, seen: int) -> Iterable[Finding]:
        return self._found.finding(
            "duplicates",
            "the same bytes as another picture",
            seen,
            "remove the copies (qi data duplicates finds near ones too): they are learned by heart, and leak into "
            "what is held out",
        )


@define
class Identical:
    """Nothing to learn: target and reference, or winner and loser, are one."""

    _edits: Tally = field(factory=Tally)
    _pairs: Tally = field(factory=Tally)

    def see(self, listing: Listing) -> None:
        image = listing.image
        if image is None:
            return
        if any(_same(image, reference) for reference in listing.references):
            self._edits.add(listing.key)
        if listing.rival and _same(image, listing.rival):
            self._pairs.add(listing.key)

    def findings(self, seen: int) -> Iterable[Finding]:
        yield from self._edits.finding(
            "target-is-reference",
            "the picture to edit and the edited one are the same file",
            seen,
            "give the edited picture, or leave them out: they teach to change nothing",
        )
        yield from self._pairs.finding(
            "winner-is-loser", "winner and loser are the same file", seen, "leave these rows out"
        )


@define
class Swapped:
    """The picture to edit stands where the edited one belongs, by what the files and their folders are called."""

    _found: Tally = field(factory=Tally)
    _right: int = 0

    def see(self, listing: Listing) -> None:
        if not listing.references or len(listing.names) < 2:
            return
        target, *references = (_words(name) for name in listing.names)
        shared = target.intersection(*references)
        target, given = target - shared, set[str]().union(*references) - shared
        wrong = bool(target & _INPUTS) + bool(given & _OUTPUTS)
        right = bool(target & _OUTPUTS) + bool(given & _INPUTS)
        if wrong > right:
            self._found.add(f"{listing.key}: target {listing.names[0]}, reference {', '.join(listing.names[1:])}")
        elif right:
            self._right += 1

    def findings(self, seen: int) -> Iterable[Finding]:
        return self._found.finding(
            "swapped",
            "target and reference look swapped, by their names",
            seen,
            "'image' is the edited picture and 'references' are what it was made of; swap them"
            + (f" ({self._right} others are the right way round)" if self._right else ""),
        )


def _words(name: str) -> set[str]:
    return set(re.findall(r"[a-z]+|[\u4e00-\u9fff]+", name.rpartition(".")[0].lower()))


def _same(one: Pictured, other: Pictured) -> bool:
    try:
        return one.length == other.length and one.length <= MOST and one.digest(MOST) == other.digest(MOST)
    except Unusable:
        return False


def _seen_through(stored: Blob) -> bool:
    """Whether any pixel is: a picture may be able to and not be."""
    from qi_core.blob import opened
    from qi_core.sizes import PILLOWS_OWN_LIMIT

    try:
        with opened(stored, MOST, PILLOWS_OWN_LIMIT) as (image, _):
            return bool(image.convert("RGBA").getchannel("A").getextrema()[0] < 255)
    except Exception:  # a broken file makes Pillow's decoders raise almost anything; it is told by another rule
        return False


def _shown(size: Size) -> str:
    return f"{size.width}x{size.height}"
