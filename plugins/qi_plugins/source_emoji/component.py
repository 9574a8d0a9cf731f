"""The settings of ``emoji``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from attrs import Attribute, field, frozen, validators

from qi_core.colours import NAMED
from qi_core.data import Samples
from qi_core.place import Place

if TYPE_CHECKING:
    from qi_plugins.source_emoji.live import EmojiSource

Group = Literal["faces", "pictures", "transport", "newer", "symbols"]
Joined = Literal["flags", "keycaps", "others", "skin-tones"]
GROUPS: tuple[Group, ...] = ("faces", "pictures", "transport", "newer", "symbols")


def _colours(_: object, attribute: Attribute[tuple[str, ...]], value: tuple[str, ...]) -> None:
    unknown = [name for name in value if name not in NAMED]
    if unknown or not value:
        found = ", ".join(unknown) or "no colour"
        raise ValueError(f"'{attribute.name}' names {found}; wanted some of {', '.join(NAMED)}")


def _some(_: object, attribute: Attribute[Any], value: tuple[str, ...]) -> None:
    if not value or len(set(value)) < len(value):
        raise ValueError(f"'{attribute.name}' is {list(value)}; wanted at least one, each once")


def _each_once(_: object, attribute: Attribute[Any], value: tuple[str, ...]) -> None:
    if len(set(value)) < len(value):
        raise ValueError(f"'{attribute.name}' is {list(value)}; wanted each once")


def _naming(_: object, attribute: Attribute[tuple[str, ...]], value: tuple[str, ...]) -> None:
    for template in value:
        try:
            named = "\0" in template.format(name="\0", background="")
        except (ValueError, LookupError, AttributeError):
            named = False
        if not named:
            raise ValueError(
                f"'{attribute.name}' holds {template!r}; wanted {{name}} in it, and besides it only {{background}}"
            )


def _range(_: object, attribute: Attribute[tuple[float, float]], value: tuple[float, float]) -> None:
    if not 0 < value[0] <= value[1] <= 1:
        raise ValueError(f"'{attribute.name}' is {list(value)}; wanted [least, most] with 0 < least <= most <= 1")


def _leaving_some(instance: Emoji, _: Attribute[float], value: float) -> None:
    if instance.split == "train" and value == 1:
        raise ValueError("'held_out' is 1, which leaves nothing to train on; lower it")


def _held_out(instance: Emoji, _: Attribute[str], value: str) -> None:
    if value == "held-out" and instance.held_out == 0:
        raise ValueError("'split' is held-out while held_out = 0 holds nothing out; raise held_out")


@frozen(kw_only=True)
class Emoji:
    """Emoji of an installed colour font on a plain ground, captioned with their names: a data set of well over a
    thousand things that nobody has to download.

    The n-th sample depends on the settings, the seed, n and the font alone; each emoji comes once in an epoch. Those
    that are joined of several characters, such as flags and families, are drawn where the font has one glyph for them,
    and else left out and counted. Names are the short ones of Unicode's CLDR.
    """

    gives: ClassVar[type] = Samples

    font: str = "system"
    """A file, or the name of an installed font. "system": the first that is found of Noto Color Emoji, Apple Color
    Emoji and Segoe UI Emoji. Bitmaps (CBDT, sbix) and layers (COLR version 0) can be drawn."""
    height: int = field(default=64, validator=validators.gt(0))
    """Pixels."""
    width: int = field(default=64, validator=validators.gt(0))
    """Pixels."""
    background: tuple[str, ...] = field(default=("white",), validator=_colours)
    """Colours of the ground, each equally frequent."""
    padding: float = field(default=0.1, validator=[validators.ge(0), validators.lt(0.5)])
    """Share of height and of width that stays free at every edge."""
    sizes: tuple[float, float] = field(default=(1.0, 1.0), validator=_range)
    """Smallest and largest size of an emoji, as a share of the room that padding leaves. A font of bitmaps has few
    sizes of its own, and what is asked for is scaled from the nearest larger one."""
    position: Literal["centre", "anywhere"] = "centre"
    """Where in that room it stands."""
    groups: tuple[Group, ...] = field(default=GROUPS, validator=_some)
    """Which emoji, by Unicode's blocks: "faces" (Emoticons, U+1F600 to 1F64F, hands and cats among them), "pictures"
    (1F300 to 1F5FF: weather, plants, food, animals, things), "transport" (1F680 to 1F6FF), "newer" (1F900 to 1F9FF and
    1FA70 to 1FAFF, of all sorts) and "symbols" (the rest). They are the samples' categories."""
    joined: tuple[Joined, ...] = field(default=("flags", "keycaps", "others"), validator=_each_once)
    """Which emoji of several characters: "flags", "keycaps" (#️⃣ 1️⃣ ...), "others" (families, professions, a heart on
    fire), "skin-tones" (each person and hand five times and more: with them, these are most of all emoji)."""
    languages: tuple[Literal["en", "zh"], ...] = field(default=("en",), validator=_some)
    """Of the captions, each equally frequent. Chinese names are CLDR's too, as they stand."""
    templates: tuple[str, ...] = field(default=(), validator=_naming)
    """Captions, with {name} and {background}, both named in Chinese where the template is Chinese; ``languages`` has no
    say then. Empty: one for each language."""
    held_out: float = field(default=0.1, validator=[validators.ge(0), validators.le(1), _leaving_some])
    """This part of all emoji is never drawn for training. A hash of the characters, skin tones aside, decides, so the
    same ones are unseen in every run."""
    split: Literal["train", "held-out"] = field(default="train", validator=_held_out)
    """Which part to draw from."""
    changed: Literal["refuse", "next-epoch"] = "refuse"
    """What a resume does when the font is not what it was: refuse, or go on with what is there from the next epoch
    on."""

    def sides(self) -> tuple[int, ...]:
        """See ``qi_core.planning.Shown``."""
        return (round((self.height * self.width) ** 0.5),)

    def build(self, place: Place, multiple: int) -> EmojiSource:
        """Reads which emoji the font has. Raises QiError where there is none, or no colour font."""
        from qi_plugins.source_emoji.live import build

        return build(self, place, multiple)
