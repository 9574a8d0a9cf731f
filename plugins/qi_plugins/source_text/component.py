"""The settings of ``rendered-text``."""

from __future__ import annotations

import string
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from attrs import Attribute, field, frozen, validators

from qi_core import Pairs, Samples
from qi_core.colours import NAMED, contrast
from qi_core.paragraph import SPACING, Align
from qi_core.typeface import SHIPPED

if TYPE_CHECKING:
    from qi_core import Place
    from qi_plugins.source_text.live import TextSource
    from qi_plugins.source_text.pairs import PairSource


def _named(instance: RenderedText, attribute: Attribute[tuple[str, ...]], value: tuple[str, ...]) -> None:
    unknown = [name for name in value if name not in NAMED]
    if unknown or not value:
        found = ", ".join(unknown) or "no colour"
        raise ValueError(f"'{attribute.name}' names {found}; wanted some of {', '.join(NAMED)}")


def _ordered(instance: RenderedText, attribute: Attribute[tuple[int, int]], value: tuple[int, int]) -> None:
    if not 1 <= value[0] <= value[1]:
        raise ValueError(f"'{attribute.name}' is {list(value)}; wanted [fewest, most] with 1 <= fewest <= most")


def _aligned(_: object, attribute: Attribute[tuple[Align, ...]], value: tuple[Align, ...]) -> None:
    if not value or set(value) - {"left", "centre", "right"}:
        raise ValueError(f"'{attribute.name}' is {list(value)}; wanted some of left, centre, right")


def _spaced(_: object, attribute: Attribute[tuple[float, float]], value: tuple[float, float]) -> None:
    if not 1 <= value[0] <= value[1] <= 4:
        raise ValueError(f"'{attribute.name}' is {list(value)}; wanted [least, most] with 1 <= least <= most <= 4")


def _quoting(instance: RenderedText, attribute: Attribute[tuple[str, ...]], value: tuple[str, ...]) -> None:
    for template in value:
        try:
            template.format(text="", foreground="", background="")
            quoted = '"{text}"' in template or "“{text}”" in template
        except (ValueError, LookupError, AttributeError):
            quoted = False
        if not quoted:
            raise ValueError(
                f"'{attribute.name}' holds {template!r}; wanted {{text}} in double quotes, "
                "and besides it only {foreground} and {background}"
            )


def _visible(instance: RenderedText, attribute: Attribute[float], value: float) -> None:
    if not instance.pairs():
        raise ValueError(
            f"'contrast' is {value:g}, and no foreground named has so much on any background named; "
            "lower it or name other colours"
        )


def _backed(instance: RenderedText, attribute: Attribute[str], value: str) -> None:
    if value == "paragraph" and instance.text is None:
        raise ValueError("'layout' is paragraph without 'text'; name a file of lines to draw")


def _leaving_some(instance: RenderedText, attribute: Attribute[float], value: float) -> None:
    if instance.split == "train" and value == 1:
        raise ValueError("'held_out' is 1, which leaves nothing to train on; lower it")


def _held_out(instance: RenderedText, attribute: Attribute[str], value: str) -> None:
    if value == "held-out" and instance.held_out == 0:
        raise ValueError("'split' is held-out while held_out = 0 holds nothing out; raise held_out")


def _look_alikes(instance: RenderedText, attribute: Attribute[tuple[str, ...]], value: tuple[str, ...]) -> None:
    seen: set[str] = set()
    for group in value:
        if len(set(group)) != len(group) or len(group) < 2 or seen & set(group):
            raise ValueError(
                f"'{attribute.name}' holds {group!r}; wanted two or more characters, each in one group only"
            )
        seen |= set(group)


def _confusable(instance: RenderedText, attribute: Attribute[float], value: float) -> None:
    if value and not instance.look_alikes:
        raise ValueError("'confused' is above 0 without 'look_alikes'; name groups of characters that are mixed up")


@frozen(kw_only=True)
class RenderedText:
    """Strings drawn with a font on a plain ground, captioned with what they say: the report's pure rendering.

    The n-th sample depends on the settings, the seed and n alone. Strings are random ones, or the lines of a file. A
    line with a character that no font has is dropped whole and counted, and so is one that holds a double quote (the
    caption could not quote it) or does not fit.
    """

    gives: ClassVar[type] = Samples

    height: int = field(default=16, validator=validators.gt(0))
    """Pixels."""
    width: int = field(default=64, validator=validators.gt(0))
    """Pixels."""
    alphabet: Literal["latin", "chinese", "both"] = "latin"
    """Of which characters random strings are made. "both": each string is of one or the other."""
    letters: str = field(default=string.ascii_uppercase, validator=validators.min_len(1))
    """The Latin alphabet's characters."""
    charset: int = field(default=256, validator=[validators.ge(1), validators.le(512)])
    """So many of the most frequent Chinese characters."""
    lengths: tuple[int, int] = field(default=(2, 4), validator=_ordered)
    """Fewest and most characters in a word. Each length is equally frequent."""
    text: Path | None = None
    """A UTF-8 file of lines to draw in place of random strings. Empty lines are skipped."""
    layout: Literal["word", "paragraph"] = field(default="word", validator=_backed)
    """"word": one line, each character in a slot of its own. "paragraph": wrapped, as large as the picture allows."""
    foreground: tuple[str, ...] = field(default=("white",), validator=_named)
    """Colours of the glyphs."""
    background: tuple[str, ...] = field(default=("black",), validator=_named)
    """Colours of the ground."""
    contrast: float = field(default=3.0, validator=[validators.ge(1), validators.le(21), _visible])
    """Pairs of colours with less contrast are never drawn (WCAG's ratio, 1 to 21; 3 is its least for large text)."""
    fonts: tuple[str, ...] = field(default=(SHIPPED,), validator=validators.min_len(1))
    """Names or paths; "system" stands for every font found on this machine."""
    size: int = field(default=0, validator=validators.ge(0))
    """Pixels an em; 0: the largest that fits."""
    pitch: int = field(default=0, validator=validators.ge(0))
    """Pixels from one character to the next in a word; 0: the width divided by the longest word."""
    align: Literal["centre", "left"] = "centre"
    """Where a word stands."""
    aligns: tuple[Align, ...] = field(default=("left",), validator=_aligned)
    """How the lines of a paragraph stand: left, centre, right; each is equally frequent."""
    spacing: tuple[float, float] = field(default=(SPACING, SPACING), validator=_spaced)
    """Least and most of a paragraph, from line to line in ems. Letters are as large as the least allows; what is left
    of the height then opens the lines up to the most."""
    jitter: int = field(default=0, validator=validators.ge(0))
    """A word stands off its place by up to so many pixels to each side."""
    templates: tuple[str, ...] = field(default=(), validator=_quoting)
    """Captions, with {text} in double quotes ("..." or “...”), {foreground} and {background}. Colours are named in
    Chinese where the template is Chinese. Empty: one in English for Latin strings, one in Chinese for Chinese ones."""
    look_alikes: tuple[str, ...] = field(default=(), validator=_look_alikes)
    """Groups of characters that ``confused`` mixes up, such as "OQ" and "EF"."""
    confused: float = field(default=0.0, validator=[validators.ge(0), validators.le(1), _confusable])
    """Each character of a group is drawn as another one of it with this probability, while the caption keeps what was
    meant: data with wrong captions, as the world has it. A string that would so become one of the other split is drawn
    as it was meant. 0: the picture shows what the caption says."""
    held_out: float = field(default=0.1, validator=[validators.ge(0), validators.le(1), _leaving_some])
    """This part of all strings is never drawn for training. A hash of the string decides, so the same strings are
    unseen in every run."""
    split: Literal["train", "held-out"] = field(default="train", validator=_held_out)
    """Which part to draw from."""
    changed: Literal["refuse", "next-epoch"] = "refuse"
    """What a resume does when ``text`` or a font is not what it was: refuse, or go on with what is there (from the next
    round of the lines on, if they changed)."""

    def pairs(self) -> tuple[tuple[str, str], ...]:
        """(foreground, background) with enough contrast."""
        return tuple(
            (fore, back)
            for fore in self.foreground
            for back in self.background
            if fore in NAMED and back in NAMED and contrast(NAMED[fore], NAMED[back]) >= max(self.contrast, 1.01)
        )

    def build(self, place: Place, multiple: int) -> TextSource:
        from qi_plugins.source_text.live import build

        return build(self, place.seed, multiple)


def _mixing(instance: RenderedPairs, attribute: Attribute[RenderedText], value: RenderedText) -> None:
    if not value.look_alikes or value.confused:
        raise ValueError(
            f"'{attribute.name}' must name look_alikes, out of which the losers' characters are drawn, and leave "
            "confused at 0, for the winners are right"
        )


@frozen(kw_only=True)
class RenderedPairs:
    """Preferences without raters: the winner is a string as the caption says, the loser has a look-alike in it.

    The gold pictures of the report's DPO data (section 4) in the small: what ``rendered-text`` draws, and the same with
    one or more characters taken for another of their group. A string without any such character is passed over.
    """

    gives: ClassVar[type] = Pairs

    text: RenderedText = field(validator=_mixing)
    """What the winners are: the keys of rendered-text, ``look_alikes`` among them."""

    def build(self, place: Place, multiple: int) -> PairSource:
        from qi_plugins.source_text.pairs import build

        return build(self, place.seed, multiple)
