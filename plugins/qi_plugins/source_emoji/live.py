"""The live source: emoji, ground, size, place and caption of the n-th sample, all from (settings, seed, n)."""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from random import Random
from typing import Any

import numpy as np
import torch
from attrs import define, field
from PIL import Image

from qi_core import material, typeface
from qi_core.colours import CHINESE, NAMED
from qi_core.data import Sample, Samples
from qi_core.drawing import Passed, drawn
from qi_core.errors import QiError
from qi_core.place import Place
from qi_core.shuffling import number_of, permutation
from qi_core.skipped import Skipped
from qi_core.source import Ticket
from qi_core.strings import is_chinese, is_held_out, pick
from qi_plugins.source_emoji.component import Emoji
from qi_plugins.source_emoji.font import ColourFont, Drawn, read
from qi_plugins.source_emoji.names import Named, digest_of_all, known

TEMPLATES = {"en": "{name}, an emoji on a {background} background", "zh": "{background}色背景上的表情符号：{name}"}


@define(kw_only=True, eq=False)
class EmojiSource:
    """A live ``emoji``."""

    settings: Emoji
    seed: int
    font: ColourFont
    emoji: tuple[Named, ...]
    """Those that are drawn."""
    passed: Passed
    scanned: Counter[str]
    material: dict[str, str]
    """See ``made_of``."""
    gives: type[Samples] = Samples
    _n: int = 0
    _order: Any = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._order = lru_cache(maxsize=4)(lambda epoch: permutation(self.seed, epoch, len(self.emoji)))

    def plan(self, count: int) -> list[Ticket]:
        """(n,) of the next samples."""
        self._n += count
        return [(n,) for n in range(self._n - count, self._n)]

    def cost(self, ticket: Ticket) -> int:
        return self.settings.height * self.settings.width

    def called(self, ticket: Ticket) -> str:
        return f"{self.settings.split}-{'-'.join(map(str, ticket))}"

    def other(self, ticket: Ticket, attempt: int) -> Ticket:
        """(n, attempt): the same ground, size and place, and another emoji."""
        return ticket[0], attempt

    def make(self, ticket: Ticket) -> Sample:
        """Raises Unusable where the font's glyph is empty or broken."""
        dice = Random(f"{self.seed}/{self.settings.split}/{ticket[0]}")
        shown = self._which(ticket)
        ground = self.settings.background[pick(dice, len(self.settings.background))]
        template = self._template(shown, dice)
        pixels = self._picture(shown.text, NAMED[ground], dice)
        return Sample(
            key=self.called(ticket),
            prompt=caption(template, shown, ground),
            image=torch.from_numpy(pixels),
            category=shown.group,
        )

    def draw(self, count: int) -> Samples:
        """See ``Source.draw``."""
        batch: Samples = drawn(self, count, self.passed)
        return batch

    def made_of(self) -> dict[str, str]:
        """See ``qi_core.source.OfFiles``."""
        return self.material

    def state_dict(self) -> dict[str, Any]:
        return {"n": self._n, "files": self.material, "emoji": len(self.emoji)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a position. Raises QiError if font or names are not what they were and ``changed`` refuses that."""
        self._n = int(state["n"])
        if material.unchanged(state.get("files"), self.material, self.settings.changed):
            self._n = material.next_round(self._n, state["emoji"], len(self.emoji))

    def report(self) -> dict[str, int]:
        return dict(self.scanned + self.passed.counts)

    def _which(self, ticket: Ticket) -> Named:
        n, *attempts = ticket
        if attempts:
            return self.emoji[number_of(f"{self.seed}/{n}/{attempts[0]}/stands in") % len(self.emoji)]
        return self.emoji[int(self._order(n // len(self.emoji))[n % len(self.emoji)])]

    def _template(self, shown: Named, dice: Random) -> str:
        """Of those whose language the emoji has a name in."""
        templates = self.settings.templates or tuple(TEMPLATES[language] for language in self.settings.languages)
        able = [template for template in templates if shown.chinese or not is_chinese(template)]
        return able[pick(dice, len(able))]

    def _picture(self, text: str, ground: tuple[int, int, int], dice: Random) -> np.ndarray[Any, Any]:
        """(3, H, W) uint8."""
        height, width = self.settings.height, self.settings.width
        room = 1 - 2 * self.settings.padding
        least, most = self.settings.sizes
        share = room * (least + (most - least) * dice.random())
        across, down = (dice.random(), dice.random()) if self.settings.position == "anywhere" else (0.5, 0.5)
        glyph = self.font.draw(text, max(round(1.25 * share * max(height, width)), 1))
        factor = min(share * height / glyph.colour.height, share * width / glyph.colour.width)
        size = (max(round(glyph.colour.width * factor), 1), max(round(glyph.colour.height * factor), 1))
        left = self.settings.padding * width + across * (room * width - size[0])
        top = self.settings.padding * height + down * (room * height - size[1])
        return _laid(
            glyph, size, (min(round(left), width - size[0]), min(round(top), height - size[1])), ground, height, width
        )


def _laid(
    glyph: Drawn, size: tuple[int, int], at: tuple[int, int], ground: tuple[int, int, int], height: int, width: int
) -> np.ndarray[Any, Any]:
    """Porter and Duff's "over": C a + G (1 - a)."""
    picture = np.empty((height, width, 3), np.uint8)
    picture[:] = ground
    colour, opacity = (
        np.asarray(part.resize(size, Image.Resampling.LANCZOS)).astype(np.float64)
        for part in (glyph.colour, glyph.opacity)
    )
    (left, top), (across, down) = (max(at[0], 0), max(at[1], 0)), size
    under = picture[top : top + down, left : left + across]
    over = colour + under * (1 - opacity[..., None] / 255)
    picture[top : top + down, left : left + across] = over.round().clip(0, 255).astype(np.uint8)
    return np.ascontiguousarray(picture.transpose(2, 0, 1))


def caption(template: str, shown: Named, ground: str) -> str:
    """A template filled in, in its own language."""
    if is_chinese(template):
        return template.format(name=shown.chinese, background=CHINESE[ground])
    return template.format(name=shown.english, background=ground)


def build(settings: Emoji, place: Place, multiple: int) -> EmojiSource:
    """The live source. Raises QiError where font or sizes don't fit the settings."""
    if settings.height % multiple or settings.width % multiple:
        raise QiError(
            f"source emoji: pictures of {settings.width}x{settings.height} pixels; wanted sides that are multiples of "
            f"{multiple} (the autoencoder's scale)"
        )
    all_emoji = [
        named
        for named in known()
        if named.group in settings.groups and (named.joined is None or named.joined in settings.joined)
    ]
    font = read(settings.font, [named.text for named in all_emoji if named.joined])
    templates = settings.templates or tuple(TEMPLATES[language] for language in settings.languages)
    chinese_alone = all(is_chinese(template) for template in templates)
    scanned: Counter[str] = Counter()
    usable: list[Named] = []
    for named in all_emoji:
        if is_held_out(named.plain, settings.held_out) != (settings.split == "held-out"):
            continue
        if not font.draws(named.text):
            scanned["no one glyph in the font" if named.joined else "no colour glyph in the font"] += 1
        elif chinese_alone and not named.chinese:
            scanned["no name in Chinese"] += 1
        else:
            usable.append(named)
    if not usable:
        told = ", ".join(f"{count} x {reason}" for reason, count in scanned.items()) or "none in these groups"
        raise QiError(
            f"source emoji: {font.path}: no emoji to draw in groups {', '.join(settings.groups)}, split "
            f"'{settings.split}' ({told}); name another font or more groups"
        )
    skipped = Skipped(place.folder, f"emoji of {font.path.name}")
    return EmojiSource(
        settings=settings,
        seed=place.seed,
        font=font,
        emoji=tuple(usable),
        passed=Passed(skipped),
        scanned=scanned,
        material={
            f"font {settings.font!r}": typeface.content(font.path),
            "emoji and their names (the library emoji)": digest_of_all(),
        },
    )
