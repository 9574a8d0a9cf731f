"""Strings as pictures of known layout, and the way back: reading such a picture by its own glyphs. No torch here.

Every character of a string stands in a slot of fixed width at a whole pixel, so a glyph is the same bitmap wherever
it stands. That is quick to draw, easy to learn, and can be read back exactly by comparing with every glyph.

Shapes: H, W pixels, P the width of a slot, C characters that can be drawn, S slots.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np
from attrs import evolve, field, frozen, validators
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from qi_core import typeface
from qi_core.errors import QiError

Bytes: TypeAlias = NDArray[np.uint8]
Floats: TypeAlias = NDArray[np.float32]


@frozen(kw_only=True)
class Typeset:
    """How strings stand in a picture. Equal settings draw equal pixels (with one version of FreeType)."""

    characters: str
    """All that can be drawn, each once."""
    height: int
    width: int
    shortest: int = field(default=1, validator=validators.gt(0))
    longest: int = field(default=4, validator=validators.gt(0))
    """Characters in a string."""
    font: str = typeface.SHIPPED
    pitch: int = 0
    """Width of a slot in pixels; 0: as wide as the longest string allows."""
    size: int = 0
    """Pixels an em; 0: the largest at which every character fits its slot."""
    align: Literal["centre", "left"] = "centre"
    jitter: int = 0
    """A string may stand off its place by so many pixels, to each side; room is left for it."""

    def fitted(self) -> Typeset:
        """With ``pitch`` and ``size`` worked out. Raises QiError where the strings don't fit the picture."""
        height, width = self.height - 2 * self.jitter, self.width - 2 * self.jitter
        pitch = self.pitch or width // self.longest
        where = f"{self.longest} characters on {self.width}x{self.height} pixels"
        if pitch * self.longest > width:
            raise QiError(f"{where}: slots of {pitch} pixels don't fit; make the picture wider or the strings shorter")
        largest = _largest(self.font, self.characters, pitch, height)
        if largest == 0:
            raise QiError(f"{where}: not even {SMALLEST} pixels an em fit; make the picture larger")
        if self.size > largest:
            raise QiError(f"{where}: font size {self.size} doesn't fit; wanted at most {largest}")
        return evolve(self, pitch=pitch, size=self.size or largest)

    def left(self, count: int) -> int:
        """Where the first slot of a string of so many characters begins."""
        return (self.width - count * self.pitch) // 2 if self.align == "centre" else self.jitter

    def glyphs(self) -> Bytes:
        """(C, H, P): ink of each character in its slot, 0 to 255."""
        return _glyphs(self.font, self.characters, self.size, self.pitch, self.height)

    def draws(self, text: str) -> bool:
        """Whether it can draw the string."""
        where = _places(self.characters)
        return self.shortest <= len(text) <= self.longest and all(character in where for character in text)

    def mask(self, text: str, dx: int = 0, dy: int = 0) -> Bytes:
        """(H, W): the ink of a string, 0 to 255, moved by (dx, dy) pixels."""
        where = _places(self.characters)
        if not self.draws(text):
            raise QiError(
                f"text {text!r}: wanted {self.shortest} to {self.longest} of the characters {self.characters[:40]!r}"
            )
        mask = np.zeros((self.height, self.width), dtype=np.uint8)
        glyphs, left = self.glyphs(), self.left(len(text))
        for slot, character in enumerate(text):
            start = left + slot * self.pitch
            mask[:, start : start + self.pitch] = glyphs[where[character]]
        return moved(mask, dx, dy)


@runtime_checkable
class Legible(Protocol):
    """A source whose pictures can be read back."""

    def typesets(self) -> tuple[Typeset, ...]:
        """Every way in which its strings are drawn. Raises QiError where they cannot be read back."""
        ...


SMALLEST = 5
"""Pixels an em below which nobody can read."""
UNREAD = "\ufffd"
"""Stands in a reading for a slot that holds no legible glyph."""
SHARP = 0.6
"""A glyph must explain so much of the squared deviation from the ground in its slot, or it is not legible. A small
model's good ones stay above 0.95 and even an I of little contrast under noise of 0.2 hardly falls below; two letters
drawn over each other come to less than 0.5, though the right one may still be the nearest."""


def moved(image: Bytes, dx: int, dy: int) -> Bytes:
    """(H, W) moved right and down; what comes in is empty."""
    if dx == 0 and dy == 0:
        return image
    height, width = image.shape
    out = np.zeros_like(image)
    out[max(dy, 0) : height + min(dy, 0), max(dx, 0) : width + min(dx, 0)] = image[
        max(-dy, 0) : height - max(dy, 0), max(-dx, 0) : width - max(dx, 0)
    ]
    return out


@lru_cache(maxsize=64)
def _places(characters: str) -> dict[str, int]:
    return {character: index for index, character in enumerate(characters)}


@lru_cache(maxsize=64)
def _largest(font: str, characters: str, pitch: int, height: int) -> int:
    """The largest size at which the ink of every character fits the slot, on one base line; 0: none does."""
    for size in range(2 * max(pitch, height), SMALLEST - 1, -1):
        loaded = typeface.load(font, size)
        top = bottom = 0
        for character in characters:
            ink = loaded.getbbox(character, anchor="ls")
            top, bottom = min(top, ink[1]), max(bottom, ink[3])
            if ink[2] - ink[0] > pitch or bottom - top > height:
                break
        else:
            return size
    return 0


@lru_cache(maxsize=64)
def _glyphs(font: str, characters: str, size: int, pitch: int, height: int) -> Bytes:
    loaded = typeface.load(font, size)
    inks = [loaded.getbbox(character, anchor="ls") for character in characters]
    top, bottom = min(ink[1] for ink in inks), max(ink[3] for ink in inks)
    base = (height - (bottom - top)) // 2 - top
    glyphs = np.zeros((len(characters), height, pitch), dtype=np.uint8)
    for index, (character, ink) in enumerate(zip(characters, inks, strict=True)):
        slot = Image.new("L", (pitch, height))
        left = (pitch - (ink[2] - ink[0])) // 2 - ink[0]
        ImageDraw.Draw(slot).text((left, base), character, font=loaded, fill=255, anchor="ls")
        glyphs[index] = np.asarray(slot)
    glyphs.setflags(write=False)
    return glyphs


@frozen(kw_only=True)
class Reading:
    """What stands in a picture."""

    text: str
    """Empty where nothing legible does; ``UNREAD`` for a slot whose glyph is missing, smudged or overdrawn."""
    likeness: float
    """Part of the picture's variance that the string, drawn in its two colours, explains: 0 to 1."""
    foreground: tuple[float, float, float] = (0.0, 0.0, 0.0)
    background: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """RGB in bytes, as a least-squares fit finds them; noise may put them a little outside 0 to 255."""


@frozen(kw_only=True)
class Reader:
    """Reads pictures of strings by comparing each slot with every glyph. It is never told the answer, nor the colours.

    A picture is taken to be ``background + mask * (foreground - background)`` and noise. The string of largest
    likelihood is that of least squared error; the error adds up over the slots, so each slot is decided on its own,
    and the number of slots, the place and the typeset by the error of the whole picture.
    """

    typesets: tuple[Typeset, ...]
    least: float = 0.1
    """A string that explains less of the picture is not legible, even if it is the best."""

    def read(self, picture: Floats) -> Reading:
        """``picture``: (3, H, W) in [-1, 1], of the typesets' size."""
        seen = self._seen(picture)
        if seen is None:
            return Reading(text="", likeness=0.0)
        guess = max((guess for face in self.typesets for guess in _guesses(seen.line, face)), key=lambda g: g.explained)
        text, legible = guess.fit.texts(guess.face)
        mask = guess.face.mask(text, guess.dx, guess.dy).astype(np.float64).reshape(-1) / 255.0
        return _reading(legible, mask, seen.pixels.reshape(3, -1), seen.total, self.least)

    def closeness(self, picture: Floats, text: str) -> float:
        """How near what stands in the picture is to ``text``, 0 to 1, without steps: something to climb. Here the
        reader is told the answer, so this is no measure of legibility; ``read`` is. See ``_closeness``.

        ``picture``: (3, H, W) in [-1, 1]. Raises QiError where no typeset can draw the text.
        """
        faces = [face for face in self.typesets if face.draws(text)]
        if not faces:
            raise QiError(f"text {text!r}: no typeset can draw it; wanted one of their characters and lengths")
        seen = self._seen(picture)
        if seen is None:
            return 0.0
        return max(_closeness(view, face, text) for face in faces for _, _, view in _views(seen.line, face))

    def _seen(self, picture: Floats) -> _Seen | None:
        """None for a picture of one colour. Raises QiError for one of another size."""
        wanted = {(3, face.height, face.width) for face in self.typesets}
        if any(picture.shape != shape for shape in wanted):
            raise QiError(f"a picture of shape {picture.shape} to read; wanted {sorted(wanted)}")
        pixels = picture.astype(np.float64)
        centred = pixels.reshape(3, -1) - pixels.reshape(3, -1).mean(axis=1, keepdims=True)
        total = float((centred**2).sum())
        if not np.isfinite(total) or total < 1e-8:
            return None
        axis = np.linalg.eigh(centred @ centred.T)[1][:, -1]  # two colours and noise: the axis from one to the other
        return _Seen(pixels, total, np.tensordot(axis, pixels, axes=1).astype(np.float32))


@frozen
class _Seen:
    """A picture, and what is looked at of it."""

    pixels: NDArray[np.float64]
    """(3, H, W)."""
    total: float
    """Sum of its squared deviations from the mean."""
    line: Floats
    """(H, W): as seen along the axis between its colours."""


@frozen
class _Guess:
    """The best string of one length at one place: a glyph in every slot, for otherwise a longer string with empty slots
    would do as well as the right one."""

    fit: _Fit
    explained: float
    """Part of the deviation of the picture's line."""
    face: Typeset
    dx: int
    dy: int


def _views(line: Floats, face: Typeset) -> Iterator[tuple[int, int, Floats]]:
    """Every offset (dx, dy) that jitter allows, and the picture moved back by it."""
    for dy in range(-face.jitter, face.jitter + 1):
        for dx in range(-face.jitter, face.jitter + 1):
            # room is left for jitter, so ground alone comes round
            yield dx, dy, np.roll(line, (-dy, -dx), axis=(0, 1))


def _starts(view: Floats) -> Iterator[tuple[float, float]]:
    """First guesses of ground and step to the ink: light on dark, and dark on light."""
    low, high = np.quantile(view, (0.02, 0.98))
    yield float(low), float(high - low)
    yield float(high), float(low - high)


def _guesses(line: Floats, face: Typeset) -> Iterator[_Guess]:
    """``line``: (H, W), the picture as seen along the axis between its colours."""
    total = float(((line - line.mean()) ** 2).sum())
    for dx, dy, view in _views(line, face):
        starts = tuple(_starts(view))
        for count in range(face.shortest, face.longest + 1):
            for base, step in starts:
                fit = _fit(view, face, count, base, step)
                yield _Guess(fit, fit.explained / max(total, 1e-12), face, dx, dy)


@frozen
class _Fit:
    """The string of so many characters that a picture looks most like, and how near each slot is to each glyph."""

    explained: float
    """How much of the picture's squared deviation the string explains."""
    chosen: NDArray[np.intp]
    """(S,)."""
    errors: Floats
    """(S, C): squared difference of each slot to each glyph, in the fitted values of ground and ink."""
    deviation: Floats
    """(S,): squared difference to the ground alone."""
    base: float
    step: float

    def texts(self, face: Typeset) -> tuple[str, str]:
        """The string, and the same with ``UNREAD`` where the glyph is missing or smudged."""
        text = "".join(face.characters[index] for index in self.chosen)
        error = np.take_along_axis(self.errors, self.chosen[:, None], axis=1)[:, 0]
        legible = error <= (1.0 - SHARP) * self.measure(face, self.chosen)
        return text, "".join(c if good else UNREAD for c, good in zip(text, legible, strict=True))

    def measure(self, face: Typeset, characters: NDArray[np.intp]) -> Floats:
        """(S,): the error of no glyph. A space explains nothing: it is measured by what a glyph would be."""
        squares = _flat(face)[2]
        blank = squares[characters] == 0
        return np.where(blank, self.step * self.step * squares.mean(), self.deviation)


def _fit(view: Floats, face: Typeset, count: int, base: float, step: float) -> _Fit:
    """Best glyph a slot, for values ``base + step * ink``; both are fitted anew to what was read, a few times over."""
    glyphs, sums, squares = _flat(face)
    left = face.left(count)
    slots = view[:, left : left + count * face.pitch].reshape(face.height, count, face.pitch)
    inner = slots.swapaxes(0, 1).reshape(count, -1) @ glyphs.T  # (S, C)
    rows, pixels, values = np.arange(count), view.size, float(view.sum())
    explained, chosen = 0.0, np.zeros(count, dtype=np.intp)
    for _ in range(4):
        # |slot - base - step glyph|^2 without the part that is the same for every glyph
        now = (step * step * squares - 2.0 * step * (inner - base * sums)).argmin(axis=1)
        ink = float(sums[now].sum())
        spread = float(squares[now].sum()) - ink * ink / pixels
        if spread < 1e-6:
            break
        covariance = float(inner[rows, now].sum()) - ink * values / pixels
        step = covariance / spread
        base = (values - step * ink) / pixels
        explained, before, chosen = covariance * step, chosen, now
        if np.array_equal(before, now):
            break
    deviation = ((slots - base) ** 2).sum(axis=(0, 2))
    errors = deviation[:, None] + step * step * squares - 2.0 * step * (inner - base * sums)
    return _Fit(explained, chosen, errors, deviation, base, step)


def _closeness(view: Floats, face: Typeset, text: str) -> float:
    """How near a picture is to a string that is told, in the colours of what it looks most like: the mean over slots of

        min over other glyphs o of  (1/2 + (|x - o|^2 - |x - w|^2) / (2 |w - o|^2)), within [0, 1]
        times  1 - |x - w|^2 / |x - ground|^2, within [0, 1],

    and that times the part of the picture's ink that lies within the slots. x is the slot, w the wanted glyph. The
    first factor is how far x has come from the look-alike (0) to the wanted glyph (1), along the line between them;
    what lies across that line, noise for instance, cancels. The second is 0 where there is nothing to read.
    """
    wanted = np.array([_places(face.characters)[character] for character in text], dtype=np.intp)
    rows, gaps = np.arange(len(text)), _gaps(face)[wanted]
    best = 0.0
    for base, step in _starts(view):
        fit = _fit(view, face, len(text), base, step)
        if fit.step**2 < 1e-8:
            continue
        error = fit.errors[rows, wanted]
        way = 0.5 + (fit.errors - error[:, None]) / (2.0 * fit.step**2 * gaps)
        way = np.where(np.isinf(gaps), 1.0, way).min(axis=1).clip(0.0, 1.0)
        there = (1.0 - error / np.maximum(fit.measure(face, wanted), 1e-12)).clip(0.0, 1.0)
        ink = float(((view - fit.base) ** 2).sum())
        best = max(best, float((way * there).mean()) * min(1.0, float(fit.deviation.sum()) / max(ink, 1e-12)))
    return best


@lru_cache(maxsize=64)
def _gaps(face: Typeset) -> Floats:
    """(C, C): squared differences of glyphs; infinite to itself and to one that looks the same."""
    glyphs, _, squares = _flat(face)
    gaps = squares[:, None] + squares[None, :] - 2.0 * (glyphs @ glyphs.T)
    return np.where(gaps < 1e-3, np.float32(np.inf), gaps)


@lru_cache(maxsize=64)
def _flat(face: Typeset) -> tuple[Floats, Floats, Floats]:
    """(C, H*P) ink from 0 to 1, and for each character its sum and its sum of squares."""
    glyphs = face.glyphs().reshape(len(face.characters), -1).astype(np.float32) / 255.0
    return glyphs, glyphs.sum(axis=1), (glyphs**2).sum(axis=1)


def _reading(text: str, mask: NDArray[np.float64], pixels: NDArray[np.float64], total: float, least: float) -> Reading:
    """Both colours by least squares. ``mask``: (H*W,), ``pixels``: (3, H*W)."""
    centred = mask - mask.mean()
    spread = float((centred**2).sum())
    if spread < 1e-6:
        return Reading(text="", likeness=0.0)
    step = pixels @ centred / spread
    likeness = float((step**2).sum() * spread / total)
    background = pixels.mean(axis=1) - step * mask.mean()
    fore, back = (tuple(float(value + 1.0) * 127.5 for value in colour) for colour in (background + step, background))
    return Reading(
        text=text if likeness >= least else "",
        likeness=likeness,
        foreground=(fore[0], fore[1], fore[2]),
        background=(back[0], back[1], back[2]),
    )
