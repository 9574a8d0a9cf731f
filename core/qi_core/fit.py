"""Decides whether a sample can be used, from captions and headers, and makes it once it is drawn."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from attrs import evolve, frozen

from qi_core.blob import Blob, header, opened
from qi_core.data import Origin, Sample
from qi_core.entries import Entry, Limits
from qi_core.pixels import Colour, Unusable, decoding, is_turned, refuse_misfit, resize, size_of
from qi_core.shuffling import number_of
from qi_core.sizes import Size, crop_box, nearest, own_size, scale

if TYPE_CHECKING:
    from torch import Tensor


_CONTROL = dict.fromkeys(each for each in (*range(32), *range(127, 160)) if each not in b"\t\n\r")
"""Characters that mean something to terminals and nothing to readers: captions are shown on screens too."""


@frozen(kw_only=True)
class Fit:
    """How a sample is made to fit, and what makes it unusable."""

    buckets: tuple[Size, ...]
    reference_area: int
    multiple: int
    enlarge: bool
    max_cropped: float
    random_crop: bool
    flip: bool
    captions: Literal["require", "empty"]
    background: Colour
    limits: Limits
    seed: int

    def note(self, entry: Entry) -> tuple[Entry, bytes]:
        """Holds the entry to the files that lie there now, and gives a digest of their sizes in bytes and of a caption
        that is at hand; nothing is opened. Raises Unusable.

        Times of the last change are not in the digest: copies on several machines differ in them.
        """
        caption, told = entry.caption, b""
        if isinstance(caption, Blob):
            caption, size = caption.stamped()
            sizes = [size]
        else:
            told, sizes = hashlib.blake2b(self._captions(entry), digest_size=16).digest(), []
        image, size = entry.image.stamped()
        sizes.append(size)
        references: list[Blob] = []
        for number, blob in enumerate(entry.references, start=1):
            with _named(number):
                found, size = blob.stamped()
            references.append(found)
            sizes.append(size)
        noted = Entry(entry.key, image, caption, tuple(references), entry.category, entry.texts)
        return noted, told + struct.pack(f"<{len(sizes)}q", *sizes)

    def check(self, entry: Entry) -> tuple[Entry, bytes]:
        """The same, with a digest of caption, sizes in pixels and sizes in bytes: captions and headers are read,
        nothing is decoded. Raises Unusable."""
        noted, _ = self.note(entry)  # first: what changes from here on is noticed
        digest = hashlib.blake2b(self._captions(noted), digest_size=16)
        for number, blob in enumerate((noted.image, *noted.references)):
            with _named(number):
                picture, size = header(blob, self.limits.file, self.limits.pixels)
                self._target(picture, reference=number > 0)
                digest.update(f"/{picture.height}x{picture.width}/{size}".encode())
        return noted, digest.digest()

    def cost(self, entry: Entry) -> int:
        """About how many pixels the sample has: of one area are all buckets."""
        return self.buckets[0].height * self.buckets[0].width + len(entry.references) * self.reference_area

    def named(self, entry: Entry, epoch: int) -> bytes | None:
        """Stands for everything that decides the sample; see ``qi_core.source.Named``."""
        parts = [entry.image, *([entry.caption] if isinstance(entry.caption, Blob) else [])]
        if entry.references or any(blob.stamp == -1 for blob in parts):
            return None
        varies = self.random_crop or self.flip or entry.texts
        told = (entry, self, epoch) if varies else (entry, evolve(self, seed=0))
        return hashlib.blake2b(repr(told).encode("utf-8", "surrogatepass"), digest_size=20).digest()

    def make(self, entry: Entry, epoch: int) -> Sample:
        """The sample as it is in this epoch. Raises Unusable."""
        flip = self.flip and self._roll(epoch, entry.key, "flip") < 0.5
        (image, origin), *references = (
            self._pixels(blob, number, entry.key, epoch, flip)
            for number, blob in enumerate((entry.image, *entry.references))
        )
        return Sample(
            key=entry.key,
            prompt=self.caption(entry, epoch),
            image=image,
            references=tuple(pixels for pixels, _ in references),
            category=entry.category,
            origin=origin,
        )

    @contextmanager
    def whole(self, entry: Entry) -> Generator[Any]:
        """The picture of Pillow's as it is stored: upright, RGB, on the stated background. Raises Unusable."""
        with (
            opened(entry.image, self.limits.file, self.limits.pixels) as (image, _),
            decoding(image, 1.0, self.background) as rgb,
        ):
            yield rgb

    def caption(self, entry: Entry, epoch: int = 0) -> str:
        """Of several, that of the epoch. Without space around it. Raises Unusable."""
        return self._text(self._choice(entry, epoch) if entry.texts else entry.caption)

    def _captions(self, entry: Entry) -> bytes:
        """All that it can have. Raises Unusable."""
        told = [self._text(text) for text, _ in entry.texts] or [self._text(entry.caption)]
        return "\0".join(told).encode()

    def _choice(self, entry: Entry, epoch: int) -> str:
        rolled = self._roll(epoch, entry.key, "caption") * sum(share for _, share in entry.texts)
        for text, share in entry.texts:
            rolled -= share
            if rolled < 0:
                return text
        return entry.texts[-1][0]

    def _text(self, caption: str | Blob | None) -> str:
        most = self.limits.caption
        text = caption or ""
        try:
            if isinstance(text, Blob):
                text = text.read(most, "caption too long").decode("utf-8-sig")
            length = len(text.encode())  # JSON can hold half a surrogate pair, which is no text
        except UnicodeError as error:
            raise Unusable("caption is not UTF-8", str(error)) from error
        if length > most:
            raise Unusable("caption too long", f"{length} bytes, {most} allowed")
        text = text.translate(_CONTROL)
        if not text.strip() and self.captions == "require":
            raise Unusable("caption missing", "" if caption is None else "empty")
        return text.strip()

    def _target(self, picture: Size, *, reference: bool) -> Size:
        if reference:
            target = own_size(self.reference_area, picture, self.multiple, self.enlarge)
        else:
            target = nearest(self.buckets, picture)
        refuse_misfit(picture, target, self.enlarge, self.max_cropped)
        return target

    def _pixels(self, blob: Blob, number: int, key: str, epoch: int, flip: bool) -> tuple[Tensor, Origin]:
        import torch

        with _named(number), opened(blob, self.limits.file, self.limits.pixels) as (image, size):
            picture = size_of(image)
            origin = Origin(height=picture.height, width=picture.width, bytes=size, turned=is_turned(image))
            target = self._target(picture, reference=number > 0)
            across = down = 0.5
            if self.random_crop and number == 0:
                across, down = self._roll(epoch, key, "across"), self._roll(epoch, key, "down")
            with decoding(image, scale(picture, target), self.background) as rgb:
                box = crop_box(Size(height=rgb.height, width=rgb.width), target, across, down)
                pixels = resize(rgb, target, box, flip)
        return torch.from_numpy(pixels), origin

    def _roll(self, epoch: int, key: str, purpose: str) -> float:
        """In [0, 1), from what is rolled for alone: the timing of the workers has no say."""
        return number_of(f"{self.seed}/{epoch}/{purpose}/{key}") / 2**64


@contextmanager
def _named(number: int) -> Generator[None]:
    """Says of a reference (any but number 0) that it is one."""
    try:
        yield
    except Unusable as error:
        if number:
            raise Unusable(f"reference: {error.reason}", f"number {number}: {error.detail}") from error
        raise
