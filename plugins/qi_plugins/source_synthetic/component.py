"""The settings of ``composed-text`` and ``templates``."""

from __future__ import annotations

import string
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from attrs import Attribute, field, frozen, validators

from qi_core import Samples
from qi_core.sizes import some_ratios
from qi_core.typeface import SHIPPED

if TYPE_CHECKING:
    from qi_core import Place
    from qi_plugins.source_synthetic.live import SyntheticSource

LANGUAGES = ("english", "chinese")
THINGS = (
    "paper",
    "note",
    "card",
    "poster",
    "banner",
    "blackboard",
    "whiteboard",
    "wooden-sign",
    "street-sign",
    "wall",
)
"""What ``composed-text`` writes on."""


def _ordered(_: object, attribute: Attribute[tuple[int, int]], value: tuple[int, int]) -> None:
    if not 1 <= value[0] <= value[1]:
        raise ValueError(f"'{attribute.name}' is {list(value)}; wanted [fewest, most] with 1 <= fewest <= most")


def _languages(_: object, attribute: Attribute[tuple[str, ...]], value: tuple[str, ...]) -> None:
    _some_of(attribute.name, value, LANGUAGES)


def _things(_: object, attribute: Attribute[tuple[str, ...]], value: tuple[str, ...]) -> None:
    _some_of(attribute.name, value, THINGS)


def _some_of(name: str, value: tuple[str, ...], known: tuple[str, ...]) -> None:
    unknown = [one for one in value if one not in known]
    if unknown or not value or len(set(value)) < len(value):
        found = ", ".join(unknown) or ("nothing" if not value else "one of them twice")
        raise ValueError(f"'{name}' names {found}; wanted some of {', '.join(known)}")


def _few(instance: ComposedText, attribute: Attribute[tuple[int, int]], value: tuple[int, int]) -> None:
    _ordered(instance, attribute, value)
    if value[1] > 4:
        raise ValueError(f"'{attribute.name}' is {list(value)}; more than 4 leave no room to write on")


def _leaving_some(instance: Synthetic, attribute: Attribute[float], value: float) -> None:
    if instance.split == "train" and value == 1:
        raise ValueError("'held_out' is 1, which leaves nothing to train on; lower it")


def _held_out(instance: Synthetic, attribute: Attribute[str], value: str) -> None:
    if value == "held-out" and instance.held_out == 0:
        raise ValueError("'split' is held-out while held_out = 0 holds nothing out; raise held_out")


@frozen(kw_only=True)
class Synthetic:
    """What both sources have: sizes, and what is written."""

    gives: ClassVar[type] = Samples

    side: int = field(default=512, validator=[validators.ge(64), validators.le(8192)])
    """Area of the pictures, as the side of a square."""
    ratios: tuple[str, ...] = field(default=("1:1",), validator=some_ratios)
    """Shapes, width:height; each is equally frequent where it can be used."""
    languages: tuple[str, ...] = field(default=LANGUAGES, validator=_languages)
    """english, chinese or both: each picture and its caption are of one."""
    words: Literal["common", "random"] = "common"
    """What is written where ``text`` names nothing: common words, or random ones made of the characters below."""
    letters: str = field(default=string.ascii_letters + string.digits, validator=validators.min_len(1))
    """Of which characters random English words are made."""
    charset: int = field(default=256, validator=[validators.ge(1), validators.le(512)])
    """So many of the most frequent Chinese characters are what random Chinese words are made of."""
    lengths: tuple[int, int] = field(default=(2, 6), validator=_ordered)
    """Fewest and most characters in a random word."""
    text: Path | None = None
    """A UTF-8 file of lines to write in place of words. A line of a language that is not named, with a double quote
    (the caption could not quote it) or with a character that no font has is dropped whole and counted."""
    fonts: tuple[str, ...] = field(default=(SHIPPED,), validator=validators.min_len(1))
    """Names or paths; "system" stands for every font found on this machine."""
    held_out: float = field(default=0.1, validator=[validators.ge(0), validators.le(1), _leaving_some])
    """This part of all strings is never drawn for training: neither as a whole nor, where words are chosen one by one,
    as one of them. The hash that decides is that of rendered-text, so the same strings are unseen everywhere."""
    split: Literal["train", "held-out"] = field(default="train", validator=_held_out)
    """Which part to draw from."""
    changed: Literal["refuse", "next-epoch"] = "refuse"
    """What a resume does when a file, font or folder that is named here is not what it was: refuse, or go on with what
    is there."""

    def sides(self) -> tuple[int, ...]:
        """See ``qi_core.planning.Shown``."""
        return (self.side,)


@frozen(kw_only=True)
class ComposedText(Synthetic):
    """Text on paper, boards, signs and walls that stand in a scene, captioned with what is where.

    The report's compositional rendering. Things are seen in perspective, lit from a side, with shadow and grain, before
    photographs of a folder or, without one, before surfaces that are computed. The n-th sample depends on the settings,
    the seed and n alone (and on the photographs).
    """

    things: tuple[str, ...] = field(default=THINGS, validator=_things)
    """What is written on; each is equally frequent. "wall" (letters on the ground itself) needs a computed one."""
    objects: tuple[int, int] = field(default=(1, 2), validator=_few)
    """Fewest and most things in a picture, at most 4."""
    count: tuple[int, int] = field(default=(1, 6), validator=_ordered)
    """Fewest and most words on a thing."""
    backgrounds: Path | None = None
    """A folder of photographs, subfolders too. What stands in the .txt beside one begins the caption."""
    computed: float = field(default=0.0, validator=[validators.ge(0), validators.le(1)])
    """This part of the pictures has computed backgrounds although there are photographs."""
    tilt: float = field(default=30.0, validator=[validators.ge(0), validators.le(60)])
    """Degrees by which a thing may be turned away from the eye to each side; half as many up and down, a third within
    the picture."""
    shade: float = field(default=0.5, validator=[validators.ge(0), validators.le(1)])
    """How uneven the light may be: 0 everywhere the same, 1 from full light to almost none."""
    grain: float = field(default=4.0, validator=[validators.ge(0), validators.le(64)])
    """Most noise of the sensor, as a standard deviation in bytes."""
    max_pixels: int = field(default=64_000_000, validator=[validators.gt(0), validators.le(89_478_485)])
    """A photograph that claims more is passed over before anything of it is decoded."""

    def build(self, place: Place, multiple: int) -> SyntheticSource:
        from qi_plugins.source_synthetic.live import composed

        return composed(self, place, multiple)


@frozen(kw_only=True)
class Templates(Synthetic):
    """Slides, posters and screens whose placeholders are filled by rules that keep layout, alignment and format.

    The report's complex rendering. A template is a TOML file; captions say all that is written, and where it stands.
    """

    ratios: tuple[str, ...] = field(default=("16:9", "4:3", "1:1", "3:4", "9:16"), validator=some_ratios)
    """Shapes, width:height; a template is drawn in those that it suits."""
    folder: Path | None = None
    """A folder of templates of one's own, drawn beside the shipped ones."""
    shipped: bool = True
    """Whether to draw the shipped templates."""
    only: tuple[str, ...] = ()
    """Names of templates (files without .toml) or of their kinds, such as slide; empty: all."""
    pictures: Path | None = None
    """A folder of photographs for the places of pictures; without one they are computed."""
    max_pixels: int = field(default=64_000_000, validator=[validators.gt(0), validators.le(89_478_485)])
    """A photograph that claims more is passed over before anything of it is decoded."""

    def build(self, place: Place, multiple: int) -> SyntheticSource:
        from qi_plugins.source_synthetic.live import templated

        return templated(self, place, multiple)
