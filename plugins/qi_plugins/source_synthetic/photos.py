"""Photographs of a folder, as grounds of scenes and in the places of pictures. No torch here."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from random import Random
from typing import Any

from attrs import frozen

from qi_core import QiError
from qi_core.material import Found, listed
from qi_core.pixels import Unusable, decoding, prepare, read_header, size_of
from qi_core.sizes import Size, crop_box, scale
from qi_core.strings import pick

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".avif", ".bmp")
_CAPTION = 2000
"""Bytes of a photograph's caption that are read at most; a longer one is left out."""


@frozen(kw_only=True)
class Photos:
    """What a folder holds, in the order of names."""

    found: Found
    most: int
    """Pixels that one may claim to have."""

    @staticmethod
    def of(folder: Path, most: int, key: str) -> Photos:
        """Lists the folder; opens nothing. ``key``: what names it in a recipe."""
        folder = folder.expanduser()
        if not folder.is_dir():
            raise QiError(f"{key} = '{folder}': no such folder; name one that holds photographs ({' '.join(ENDINGS)})")
        found = listed(folder, ENDINGS, beside=(".txt",))
        if not found.files:
            raise QiError(f"{key} = '{folder}': no photographs there; wanted files that end in {' '.join(ENDINGS)}")
        prepare()
        return Photos(found=found, most=most)

    def choose(self, dice: Random) -> str:
        """The path of one within the folder."""
        return self.found.files[pick(dice, len(self.found.files))]

    def picture(self, name: str, height: int, width: int, dice: Random) -> Any:
        """RGB of that size, cropped anywhere. Raises Unusable."""
        from PIL import Image

        target = Size(height=height, width=width)
        try:
            with (self.found.folder / name).open("rb") as file:
                self.found.refuse_changed(name, file.fileno())
                image = read_header(file, self.most)
                size = size_of(image)
                factor = scale(size, target)
                if factor > 2:
                    raise Unusable("background too small", f"{name}: {size.width}x{size.height} for {width}x{height}")
                with decoding(image, factor, (255, 255, 255)) as upright:
                    whole = Size(height=upright.height, width=upright.width)
                    box = crop_box(whole, target, dice.random(), dice.random())
                    return upright.resize((width, height), Image.Resampling.BICUBIC, box=box, reducing_gap=2.0)
        except OSError as error:
            raise Unusable("background cannot be read", f"{name}: {error.strerror}") from error

    def caption(self, name: str) -> str:
        """What stands in the .txt beside it; empty where none was found, or it quotes something that would not be in
        the picture. Raises Unusable if it is not what was found."""
        beside = str(PurePosixPath(name).with_suffix(".txt"))
        if beside not in self.found.stamps:
            return ""
        try:
            with (self.found.folder / beside).open("rb") as file:
                self.found.refuse_changed(beside, file.fileno())
                content = file.read(_CAPTION + 1)
            text = " ".join(content.decode("utf-8-sig").split()) if len(content) <= _CAPTION else ""
        except OSError as error:
            raise Unusable("background cannot be read", f"{beside}: {error.strerror}") from error
        except UnicodeDecodeError:
            return ""
        return "" if any(quote in text for quote in '"“”「」『』') else text
