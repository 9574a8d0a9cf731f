"""Bytes -> upright RGB pictures. Every file is taken to be hostile: its header is judged before anything is decoded."""

from __future__ import annotations

import math
import threading
import warnings
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager
from functools import cache
from typing import Any, BinaryIO, Self

import numpy as np
from PIL import Image, UnidentifiedImageError

from qi_core.sizes import PILLOWS_OWN_LIMIT, Box, Size, cropped, scale

Colour = tuple[int, int, int]

# EXIF 2.32, table 6, tag 274: what has to be done to a stored picture so that it stands upright.
_ORIENTATION = 274
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ON_ITS_SIDE = (5, 6, 7, 8)
_BAND = 2**20  # pixels that are converted at once


class Unusable(Exception):
    """Why a picture, or what comes with it, can't be used: a reason to count by, and the detail for the list."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail

    def again(self, whose: str = "") -> Self:
        """To be raised once more: the same without the frames of the first time, which would keep a picture each.
        ``whose``: stands before the reason, and is counted with it."""
        return type(self)(f"{whose}: {self.reason}" if whose else self.reason, self.detail)


@cache
def _formats() -> tuple[str, ...]:
    """Raster formats that Pillow decodes by itself: never those that start a program (EPS) or draw (WMF)."""
    Image.init()
    return tuple(name for name in ("PNG", "JPEG", "WEBP", "AVIF", "BMP", "GIF", "TIFF", "PPM") if name in Image.OPEN)


def prepare() -> None:
    """Once before threads open pictures: they must not load Pillow's formats, or change filters, at the same time."""
    _formats()
    # Blocks so large that the allocator gives them back at once. Of Pillow's own, 16 MiB, the heap of each thread keeps
    # what it had: four threads that decode 60 megapixels in turn come to 1.5 GB instead of 0.6.
    Image.core.set_block_size(2**26)
    # Below twice its limit Pillow only warns of a bomb.
    warnings.filterwarnings("error", category=Image.DecompressionBombWarning)
    # Broken EXIF costs a picture its orientation, not its place, whatever the filters of the process are.
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


def read_header(file: BinaryIO, most: int) -> Any:
    """The picture in an open file, judged by its header; nothing is decoded. Raises Unusable.

    ``most``: pixels that it may claim to have.
    """
    try:
        image = Image.open(file, formats=_formats())
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise Unusable("too many pixels", str(error)) from error
    except UnidentifiedImageError as error:
        raise Unusable("not a picture", f"none of {', '.join(_formats())}") from error
    except Exception as error:  # a broken header makes Pillow's readers raise almost anything
        raise Unusable("cannot be decoded", f"{type(error).__name__}: {error}") from error
    if image.width * image.height > most:
        raise Unusable("too many pixels", f"{image.width}x{image.height}, {most} allowed")
    return image


def size_of(image: Any) -> Size:
    """The size as it will be seen, from the header alone."""
    if _orientation(image) in _ON_ITS_SIDE:
        return Size(height=image.width, width=image.height)
    return Size(height=image.height, width=image.width)


def is_turned(image: Any) -> bool:
    """Whether it is stored on its side, upside down or mirrored."""
    return _orientation(image) in _UPRIGHT


def refuse_misfit(picture: Size, target: Size, enlarge: bool, max_cropped: float) -> None:
    """Raises Unusable if the picture would have to be enlarged for its target, or too large a share of it cut off."""
    told = f"{picture.width}x{picture.height} for {target.width}x{target.height}"
    if not enlarge and scale(picture, target) > 1:
        raise Unusable("too small", told)
    if cropped(picture, target) > max_cropped:
        raise Unusable("crop would cut off too much", told)


class _Room:
    """How many pixels are being decoded in this process, all threads together: large pictures wait for each other."""

    def __init__(self, most: int) -> None:
        self._most, self._taken = most, 0
        self._door, self._free = threading.Lock(), threading.Condition()

    @contextmanager
    def for_(self, pixels: int) -> Generator[None]:
        wanted = min(pixels, self._most)
        with self._door, self._free:  # behind the door wait those that came later: small ones don't overtake for ever
            self._free.wait_for(lambda: self._taken + wanted <= self._most)
            self._taken += wanted
        try:
            yield
        finally:
            with self._free:
                self._taken -= wanted
                self._free.notify_all()


_ROOM = _Room(PILLOWS_OWN_LIMIT)
"""The largest picture that may be, or several smaller ones: at about 8 bytes a pixel, 0.7 GB at most, however many
threads there are."""


@contextmanager
def decoding(image: Any, factor: float, background: Colour) -> Generator[Any]:
    """Decoded, upright, RGB; to be let go of when the context ends, so that the process has room for the next. It may
    come out smaller than stored, but at least twice as large as needed.

    ``factor``: by which the stored picture is to be scaled afterwards. Raises Unusable.
    """
    _draft(image, factor)
    # Closed, not only let go of: whoever waits must find the memory free.
    with _ROOM.for_(image.width * image.height), closing(image), closing(_decoded(image, background)) as rgb:
        yield rgb


def decode(image: Any, factor: float, background: Colour) -> Any:
    """The same, without waiting for room: where one picture is looked at at a time."""
    _draft(image, factor)
    return _decoded(image, background)


def _decoded(image: Any, background: Colour) -> Any:
    try:
        orientation = _orientation(image)
        rgb = _to_rgb(image, background)
        return rgb.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else rgb
    except Unusable:
        raise
    except Exception as error:  # a broken file makes Pillow's decoders raise almost anything
        raise Unusable("cannot be decoded", f"{type(error).__name__}: {error}") from error


def resize(image: Any, target: Size, box: Box, flip: bool) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """(3, H, W) uint8 of the part of an RGB picture in ``box``."""
    small = image.resize((target.width, target.height), Image.Resampling.LANCZOS, box=box, reducing_gap=3.0)
    pixels = np.asarray(small)  # (H, W, 3)
    if flip:
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _orientation(image: Any) -> int:
    # Pillow decodes a whole PNG to look for EXIF behind its pixels: only what stands before them counts here.
    if image.format == "PNG" and not {"exif", "Raw profile type exif"} & image.info.keys():
        return 1
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # broken EXIF does not make the pixels bad
        return 1


def _draft(image: Any, factor: float) -> None:
    """Have a JPEG decoded at 1/2, 1/4 or 1/8, for a fraction of the time; other formats ignore this."""
    try:
        image.draft(None, (math.ceil(2 * image.width * factor), math.ceil(2 * image.height * factor)))
    except Exception as error:  # a broken file makes Pillow's decoders raise almost anything
        raise Unusable("cannot be decoded", f"{type(error).__name__}: {error}") from error


def _to_rgb(image: Any, background: Colour) -> Any:
    image.load()
    if image.mode.startswith("I;16"):
        return _from_16_bit(image, background)
    if image.mode in ("I", "F"):
        raise Unusable("pixels without a known range", f"mode {image.mode}")
    if not image.has_transparency_data:
        return image.convert("RGB")

    def laid(band: Any) -> Any:
        rgba = band.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, (*background, 255)), rgba).convert("RGB")

    return _in_bands(image, laid)


def _in_bands(image: Any, convert: Callable[[Any], Any]) -> Any:
    """What ``convert`` makes of each pixel, band by band: its copies of a picture of 64 million pixels would take
    gigabytes."""
    rgb, rows = Image.new("RGB", image.size), max(_BAND // image.width, 1)
    for top in range(0, image.height, rows):
        rgb.paste(convert(image.crop((0, top, image.width, min(top + rows, image.height)))), (0, top))
    return rgb


def _from_16_bit(image: Any, background: Colour) -> Any:
    clear = image.info.get("transparency")

    def scaled(band: Any) -> Any:
        # Pillow's own conversion cuts values off at 255 instead of scaling 0..65535 to 0..255.
        wide = np.asarray(band).astype(np.uint32)
        grey = Image.fromarray(((wide * 255 + 32767) // 65535).astype(np.uint8)).convert("RGB")
        if clear is None:
            return grey
        paper = Image.new("RGB", grey.size, background)
        paper.paste(grey, mask=Image.fromarray(np.where(wide == clear, 0, 255).astype(np.uint8)))
        return paper

    return _in_bands(image, scaled)
