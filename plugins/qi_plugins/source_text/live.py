"""The live source: string, font, colours, caption and place of the n-th sample, all from (settings, seed, n)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from random import Random
from typing import Any

import numpy as np
import torch
from attrs import define, field

from qi_core import QiError, Sample, Samples, Ticket, material, typeface
from qi_core.colours import CHINESE, NAMED
from qi_core.drawing import Passed, Rejected, drawn
from qi_core.glyphs import Bytes, Typeset
from qi_core.strings import (
    Lines,
    RandomStrings,
    Strings,
    frequent,
    is_chinese,
    is_held_out,
    lines_of,
    pick,
    read_lines,
    usable,
)
from qi_plugins.source_text.component import RenderedText
from qi_plugins.source_text.confusing import confused
from qi_plugins.source_text.writers import Paragraphs, Words, Writer

WORD = ('the word "{text}" in {foreground} on {background}',)
PARAGRAPH = ('the text "{text}" in {foreground} on {background}',)
CHINESE_TEXT = ("{background}底{foreground}字“{text}”",)


@define(kw_only=True, eq=False)
class TextSource:
    """A live ``rendered-text``."""

    settings: RenderedText
    seed: int
    strings: Strings
    writer: Writer
    skipped: Counter[str]
    material: dict[str, str]
    """See ``made_of``."""
    gives: type = field(default=Samples, init=False)
    _n: int = 0
    _passed: Passed = field(factory=Passed, init=False)
    _pairs: tuple[tuple[str, str], ...] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._pairs = self.settings.pairs()

    def plan(self, count: int) -> list[Ticket]:
        """A ticket is the sample's number."""
        self._n += count
        return [(n,) for n in range(self._n - count, self._n)]

    def cost(self, ticket: Ticket) -> int:
        return self.settings.height * self.settings.width

    def called(self, ticket: Ticket) -> str:
        return f"{self.settings.split}-{ticket[0]}"

    def make(self, ticket: Ticket) -> Sample:
        sample = self.sample(ticket[0])
        if sample is None:
            raise self.misfit()
        return sample

    def other(self, ticket: Ticket, attempt: int) -> Ticket:
        return (self.strings.other(ticket[0], attempt),)

    def draw(self, count: int) -> Samples:
        return drawn(self, count, self._passed)  # type: ignore[no-any-return]

    def made_of(self) -> dict[str, str]:
        """See ``qi_core.source.OfFiles``."""
        return self.material

    def state_dict(self) -> dict[str, Any]:
        lines = {"lines": len(self.strings)} if isinstance(self.strings, Lines) else {}
        return {"n": self._n, "files": self.material, **lines}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a position. Raises QiError if the files are not what they were and ``changed`` refuses that."""
        self._n = int(state["n"])
        others = material.unchanged(state.get("files"), self.material, self.settings.changed)
        if isinstance(self.strings, Lines) and lines_of(self.settings.text) in others:
            self._n = material.next_round(self._n, state["lines"], len(self.strings))

    def report(self) -> dict[str, int]:
        return dict(self.skipped + self._passed.counts)

    def typesets(self) -> tuple[Typeset, ...]:
        """See ``Legible.typesets``."""
        return self.writer.typesets()

    def misfit(self) -> Rejected:
        """What is said of a string that does not fit."""
        size = f"{self.settings.width}x{self.settings.height} pixels"
        return Rejected("does not fit the picture", f"{size}; make the picture larger or the lines shorter")

    def sample(self, n: int, instead: str | None = None) -> Sample | None:
        """The n-th sample; None where its string does not fit the picture. ``instead``: what is drawn in the place of
        what the caption says, all else being equal."""
        dice = Random(f"{self.seed}/{self.settings.split}/{n}")
        text = self.strings.choose(n, dice)
        drawn = instead or (self._mixed_up(text, n) if self.settings.confused else text)
        mask = self.writer.write(drawn, dice)
        if mask is None:
            return None
        foreground, background = self._pairs[pick(dice, len(self._pairs))]
        templates = self._templates(text)
        template = templates[pick(dice, len(templates))]
        return Sample(
            key=self.called((n,)),
            prompt=caption(template, text, foreground, background),
            image=torch.from_numpy(coloured(mask, foreground, background)),
            text=drawn,
        )

    def _mixed_up(self, text: str, n: int) -> str:
        """The string with some characters taken for others of their group. Rolled apart from all else, so that the
        same samples come with and without it."""
        dice = Random(f"{self.seed}/{self.settings.split}/{n}/confused")
        drawn = confused(text, self.settings.look_alikes, self.settings.confused, dice)
        return drawn if self.belongs(drawn) else text

    def belongs(self, text: str) -> bool:
        """Whether a string is of this source's split: what is held out is never drawn for training, by no way."""
        return is_held_out(text, self.settings.held_out) == (self.settings.split == "held-out")

    def _templates(self, text: str) -> Sequence[str]:
        if self.settings.templates:
            return self.settings.templates
        if is_chinese(text):
            return CHINESE_TEXT
        return WORD if self.settings.layout == "word" else PARAGRAPH


def coloured(mask: Bytes, foreground: str, background: str) -> Bytes:
    """(H, W) ink -> (3, H, W)."""
    return np.take(_palette(foreground, background), mask, axis=1)


def caption(template: str, text: str, foreground: str, background: str) -> str:
    """A template filled in, colours named in its own language."""
    if is_chinese(template):
        foreground, background = CHINESE[foreground], CHINESE[background]
    return template.format(text=text, foreground=foreground, background=background)


def build(settings: RenderedText, seed: int, multiple: int) -> TextSource:
    """The live source. Raises QiError where fonts, file or sizes don't fit the settings."""
    if settings.height % multiple or settings.width % multiple:
        raise QiError(
            f"rendered-text: pictures of {settings.width}x{settings.height} pixels; wanted sides that are multiples "
            f"of {multiple} (the autoencoder's scale)"
        )
    skipped: Counter[str] = Counter()
    fonts = typeface.spelt_out(settings.fonts)
    source = (_of_random if settings.text is None else _of_lines)(settings, seed, fonts, skipped)
    for group in settings.look_alikes:
        if not source.writer.able(group):
            raise QiError(
                f"rendered-text: look_alikes holds {group!r}, which is not of the characters that are drawn; name "
                "groups of one alphabet's own characters ('letters', 'charset'), or of the lines'"
            )
    return source


def _of_random(settings: RenderedText, seed: int, fonts: Sequence[str], skipped: Counter[str]) -> TextSource:
    latin, chinese = "".join(dict.fromkeys(settings.letters)), frequent()[: settings.charset]
    alphabets = {"latin": (latin,), "chinese": (chinese,), "both": (latin, chinese)}[settings.alphabet]
    faces: list[tuple[str, str]] = []
    for alphabet in alphabets:
        able = [font for font in fonts if typeface.covers(font, alphabet)]
        if not able:
            raise QiError(
                f"rendered-text: {fonts[0]} has no glyph for {typeface.missing(fonts[0], alphabet)[:20]!r}, and no "
                "other font named has them all; name another font or change 'letters', 'charset' or 'alphabet'"
            )
        if len(able) < len(fonts):
            skipped["fonts without all the characters"] += len(fonts) - len(able)
        faces += [(font, alphabet) for font in able]
    strings = RandomStrings(
        alphabets=alphabets, lengths=settings.lengths, held_out=settings.held_out, split=settings.split
    )
    return TextSource(
        settings=settings,
        seed=seed,
        strings=strings,
        writer=_words(settings, faces),
        skipped=skipped,
        material=typeface.told(settings.fonts),
    )


def _of_lines(settings: RenderedText, seed: int, fonts: Sequence[str], skipped: Counter[str]) -> TextSource:
    assert settings.text is not None
    read = read_lines(settings.text)
    lines = usable(read, map(typeface.characters, fonts), skipped)
    if settings.layout == "word":
        fitting = [line for line in lines if settings.lengths[0] <= len(line) <= settings.lengths[1]]
        skipped["is shorter or longer than 'lengths'"] += len(lines) - len(fitting)
        lines = fitting
    wanted = settings.split == "held-out"
    own = tuple(line for line in lines if is_held_out(line, settings.held_out) == wanted)
    if not own:
        raise QiError(
            f"{settings.text}: {len(lines)} usable lines, none of them in split '{settings.split}' "
            f"(skipped: {dict(+skipped) or 'none'}); wanted at least one"
        )
    writer: Writer
    if settings.layout == "paragraph":
        writer = Paragraphs(
            height=settings.height,
            width=settings.width,
            fonts=tuple(fonts),
            largest=settings.size,
            spacing=settings.spacing,
            aligns=settings.aligns,
        )
    else:
        seen = "".join(dict.fromkeys("".join(lines)))
        coverages = [(font, "".join(c for c in seen if c == " " or typeface.covers(font, c))) for font in fonts]
        writer = _words(settings, [(font, characters) for font, characters in coverages if characters.strip()])
    return TextSource(
        settings=settings,
        seed=seed,
        strings=Lines(lines=own, seed=seed),
        writer=writer,
        skipped=+skipped,
        material={lines_of(settings.text): material.digest(read), **typeface.told(settings.fonts)},
    )


def _words(settings: RenderedText, faces: Sequence[tuple[str, str]]) -> Words:
    """``faces``: font and the characters it draws."""
    return Words(
        faces=tuple(
            Typeset(
                font=font,
                characters=characters,
                height=settings.height,
                width=settings.width,
                shortest=settings.lengths[0],
                longest=settings.lengths[1],
                pitch=settings.pitch,
                size=settings.size,
                align=settings.align,
                jitter=settings.jitter,
            ).fitted()
            for font, characters in faces
        )
    )


@lru_cache(maxsize=1024)
def _palette(foreground: str, background: str) -> Bytes:
    """(3, 256): the colour of a pixel by its ink."""
    ink = np.linspace(0.0, 1.0, 256)
    fore, back = (np.array(NAMED[name], dtype=np.float64)[:, None] for name in (foreground, background))
    return np.round(back + (fore - back) * ink).astype(np.uint8)
