"""How stored pictures are made to fit: the keys that sources of them share."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

from attrs import field, frozen, validators

from qi_core.sizes import PILLOWS_OWN_LIMIT, some_ratios

if TYPE_CHECKING:
    from qi_core.fit import Fit
    from qi_core.repeats import Weights


def own_first(_: type[Any], fields: list[Any]) -> list[Any]:
    """A class's own keys stand before those that it shares: for ``frozen(field_transformer=...)``."""
    return sorted(fields, key=lambda each: each.inherited)


@frozen(kw_only=True)
class CaptionKey:
    """One of several captions that a picture has."""

    key: str = field(validator=validators.min_len(1))
    """In the line of the JSONL or in the .json: "raw"."""
    share: float = field(default=1.0, validator=[validators.gt(0), validators.lt(math.inf)])
    """How often it is taken, in proportion to the others."""


@frozen(kw_only=True)
class PictureFiles:
    """Pictures in files, which are taken to be hostile and may change between two starts."""

    background: tuple[int, int, int] = field(
        default=(255, 255, 255),
        validator=validators.deep_iterable(validators.and_(validators.ge(0), validators.le(255))),
    )
    """Red, green and blue under transparent pictures."""
    changed: Literal["refuse", "next-epoch"] = "refuse"
    """What a resume does when the data is not what it was: refuse, or go on (from the next epoch if samples came or
    went)."""
    workers: int = field(default=4, validator=validators.gt(0))
    """Threads that decode. Has no effect on what is drawn."""
    max_pixels: int = field(default=64_000_000, validator=[validators.gt(0), validators.le(PILLOWS_OWN_LIMIT)])
    """A picture that claims more is skipped before anything of it is decoded."""
    max_file: int = field(default=256 * 2**20, validator=validators.gt(0))
    """Bytes of a picture's file; a larger one is skipped."""


@frozen(kw_only=True, field_transformer=own_first)
class Fitting(PictureFiles):
    """Each picture near its own shape, and never squashed."""

    side: int = field(default=256, validator=validators.gt(0))
    """Area of the pictures, told as the side of a square in pixels: 256 means about 256*256, whatever the shape."""
    ratios: tuple[str, ...] = field(
        default=("1:1", "2:3", "3:2", "3:4", "4:3", "9:16", "16:9", "1:3", "3:1"), validator=some_ratios
    )
    """Shapes: width:height at the area of ``side``, or sizes in pixels ("1664x928"). A picture goes to the nearest one:
    scaled until it covers it, then cropped."""
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
    weights_file: str = ""
    """A list of how often samples come in an epoch (qi data resample): a JSONL with "key" and "weight". 2.5 is two or
    three times, 0.25 every fourth epoch, 0 never; who is not on it comes once."""
    max_caption: int = field(default=16_384, validator=validators.gt(0))
    """Bytes of a caption; a longer one is skipped, never cut."""
    max_line: int = field(default=2**20, validator=validators.gt(0))
    """Bytes of a line of a JSONL, and of a .json in a shard."""

    def sides(self) -> tuple[int, ...]:
        """See ``qi_core.planning.Shown``."""
        return (self.side,)

    def weighing(self, even: bool) -> Weights | None:
        """How often samples come; None where each comes once. Raises QiError if it cannot be read."""
        from qi_core.repeats import Weights

        return Weights.kept(self.weights_file) if self.weights_file and not even else None

    def fit(self, seed: int, multiple: int) -> Fit:
        """What makes samples fit, and says which can't."""
        from qi_core.entries import Limits
        from qi_core.fit import Fit
        from qi_core.sizes import shaped

        return Fit(
            buckets=tuple(shaped(ratio, self.side**2, multiple) for ratio in self.ratios),
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
