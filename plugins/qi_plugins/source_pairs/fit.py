"""Decides from headers whether a couple can be used, and makes the pair once it is drawn."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from attrs import evolve, frozen

from qi_core.blob import Blob, header, opened
from qi_core.data import Pair
from qi_core.pixels import Colour, Unusable, decoding, refuse_misfit, resize, size_of
from qi_core.sizes import Size, crop_box, nearest, own_size, scale
from qi_plugins.source_pairs.rows import Couple

if TYPE_CHECKING:
    from torch import Tensor


@frozen(kw_only=True)
class Fit:
    """How pictures are made to fit. Both of a couple come to one size, the one nearest to the winner's shape."""

    buckets: tuple[Size, ...]
    reference_area: int
    multiple: int
    enlarge: bool
    max_cropped: float
    background: Colour
    max_pixels: int
    max_file: int

    def check(self, couple: Couple) -> tuple[Couple, bytes]:
        """The couple, held to the files that lie there now, and a digest of the prompt, sizes in pixels and in bytes;
        nothing is decoded. Raises Unusable."""
        digest = hashlib.blake2b(couple.prompt.encode(), digest_size=16)
        couple = _stamped(couple)  # first: what changes from here on is noticed
        target: Size | None = None
        for name, blob in _files(couple):
            with _told(name):
                picture, size = header(blob, self.max_file, self.max_pixels)
                target = self._target(name, picture, target)
                digest.update(f"/{picture.height}x{picture.width}/{size}".encode())
        return couple, digest.digest()

    def named(self, couple: Couple) -> bytes | None:
        """Stands for everything that decides the pair; see ``qi_core.source.Named``."""
        if couple.references or any(blob.stamp == -1 for _, blob in _files(couple)):
            return None
        return hashlib.blake2b(repr((couple, self)).encode("utf-8", "surrogatepass"), digest_size=20).digest()

    def cost(self, couple: Couple) -> int:
        """About how many pixels the pair has: of one area are all buckets."""
        return 2 * self.buckets[0].height * self.buckets[0].width + len(couple.references) * self.reference_area

    def make(self, couple: Couple) -> Pair:
        """Raises Unusable. The same in every epoch."""
        target: Size | None = None
        made: list[Tensor] = []
        for name, blob in _files(couple):
            with _told(name):
                pixels, target = self._pixels(name, blob, target)
            made.append(pixels)
        winner, loser, *references = made
        return Pair(key=couple.key, prompt=couple.prompt, winner=winner, loser=loser, references=tuple(references))

    def _target(self, name: str, picture: Size, before: Size | None) -> Size:
        """``before``: what the picture before it came to; the loser comes to what the winner did."""
        if name == "reference":
            target = own_size(self.reference_area, picture, self.multiple, self.enlarge)
        elif before is None:
            target = nearest(self.buckets, picture)
        else:
            target = before
        refuse_misfit(picture, target, self.enlarge, self.max_cropped)
        return target

    def _pixels(self, name: str, blob: Blob, before: Size | None) -> tuple[Tensor, Size]:
        import torch

        with opened(blob, self.max_file, self.max_pixels) as (image, _):
            picture = size_of(image)
            target = self._target(name, picture, before)
            with decoding(image, scale(picture, target), self.background) as rgb:
                box = crop_box(Size(height=rgb.height, width=rgb.width), target, 0.5, 0.5)
                pixels = resize(rgb, target, box, flip=False)
        return torch.from_numpy(pixels), target


def _files(couple: Couple) -> list[tuple[str, Blob]]:
    return [("winner", couple.winner), ("loser", couple.loser), *(("reference", one) for one in couple.references)]


def _stamped(couple: Couple) -> Couple:
    stamped: list[Blob] = []
    for name, blob in _files(couple):
        with _told(name):
            stamped.append(blob.stamped()[0])
    winner, loser, *references = stamped
    return evolve(couple, winner=winner, loser=loser, references=tuple(references))


@contextmanager
def _told(name: str) -> Iterator[None]:
    """Says which picture of the couple it was."""
    try:
        yield
    except Unusable as error:
        raise Unusable(f"{name}: {error.reason}", error.detail) from error
