"""Fonts: the one that is shipped, those found on the machine, and which characters they have. No torch here."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

from PIL import ImageFont

from qi_core.blob import stamp_of
from qi_core.cache.identity import fingerprint
from qi_core.errors import QiError
from qi_core.material import digest

SHIPPED = "noto-sans-sc"
"""Noto Sans SC Regular (SIL Open Font License 1.1), cut down to Latin, punctuation and the 3755 Chinese characters of
GB 2312 level 1, without hints."""


@lru_cache(maxsize=1)
def found() -> dict[str, Path]:
    """Fonts of this machine: name (file name without ending, lower case) -> file. The shipped one is not among them."""
    fonts: dict[str, Path] = {}
    for folder in _folders():
        for path in sorted(folder.rglob("*")) if folder.is_dir() else ():
            if path.suffix.lower() in (".ttf", ".otf"):
                fonts.setdefault(path.stem.lower(), path)
    return fonts


@lru_cache(maxsize=256)
def locate(font: str) -> Path:
    """The file of a font: ``noto-sans-sc`` (the shipped one), the name of a found one, or a path."""
    if font == SHIPPED:
        return Path(str(files("qi_core") / "fonts" / "NotoSansSC-Regular-subset.ttf"))
    path = Path(font)
    if not path.is_file():
        path = found().get(font.lower(), path)
    if not path.is_file():
        raise QiError(
            f"font {font!r}: no such file, and no font of this name on this machine; "
            f"use {SHIPPED!r} (shipped), a path, or one of {len(found())} found ones such as {_some(found())}"
        )
    return path


def spelt_out(fonts: Iterable[str]) -> tuple[str, ...]:
    """The fonts named, each once; "system" stands for every one found on this machine. Raises QiError if one is not
    there, or none is left."""
    named: dict[str, None] = {}
    for font in fonts:
        if font == "system":
            named.update(dict.fromkeys(str(path) for path in found().values()))
        else:
            named[str(locate(font)) if font != SHIPPED else font] = None
    if not named:
        raise QiError(f"fonts {list(fonts)}: none found; name {SHIPPED!r} or a file")
    return tuple(named)


def told(fonts: Iterable[str]) -> dict[str, str]:
    """What lies under the names that are given, to tell when it is another font: see ``qi_core.source.OfFiles``. The
    shipped one is what the version of qi says."""
    return {
        f"font {font!r}": digest(content(path) for path in (found().values() if font == "system" else [locate(font)]))
        for font in fonts
        if font != SHIPPED
    }


_stamps: dict[Path, int] = {}
"""Of fonts that were told."""


@lru_cache(maxsize=4096)
def content(path: Path) -> str:
    """A digest. The file is read once a process, as its glyphs are: from then on it must stay what it was."""
    try:
        _stamps[path] = stamp_of(path.stat())
        return fingerprint(path)
    except OSError as error:
        raise QiError(f"font {path}: cannot be read ({error.strerror}); name another, or see to the file") from error


def refuse_changed(path: Path) -> None:
    """Raises QiError if a font was told and is another one now: half of the glyphs would be of the one, half of the
    other."""
    try:
        changed = path in _stamps and stamp_of(path.stat()) != _stamps[path]
    except OSError:
        changed = True
    if changed:
        raise QiError(f"font {path}: it changed while it is in use; put it back, or start again to draw with it")


@lru_cache(maxsize=256)
def load(font: str, size: int) -> ImageFont.FreeTypeFont:
    """A font at a size in pixels a em, ready to draw. Basic layout: the same on machines with and without Raqm."""
    path = locate(font)
    refuse_changed(path)
    try:
        return ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)
    except OSError as error:
        raise QiError(f"font {path}: cannot be read ({error}); wanted a TrueType or OpenType font") from error


@lru_cache(maxsize=256)
def characters(font: str) -> frozenset[str]:
    """All that the font has a glyph for. White space counts where it is mapped."""
    from fontTools.ttLib import TTFont, TTLibError  # type: ignore[import-untyped]

    path = locate(font)
    try:
        with path.open("rb") as stream, TTFont(stream, lazy=True) as file:
            return frozenset(map(chr, file.getBestCmap() or {}))
    except (TTLibError, OSError) as error:
        raise QiError(f"font {path}: cannot be read ({error}); wanted a TrueType or OpenType font") from error


def missing(font: str, text: str) -> str:
    """The characters of the text that the font has no glyph for, each once, in order."""
    return "".join(dict.fromkeys(character for character in text if character not in characters(font)))


def covers(font: str, text: str) -> bool:
    """Whether every character has a glyph."""
    return not missing(font, text)


def _folders() -> tuple[Path, ...]:
    home = Path.home()
    if sys.platform == "darwin":
        return (home / "Library/Fonts", Path("/Library/Fonts"), Path("/System/Library/Fonts"))
    if sys.platform == "win32":
        local = Path(os.environ.get("LOCALAPPDATA", home / "AppData/Local")) / "Microsoft/Windows/Fonts"
        return (local, Path(os.environ.get("WINDIR", "C:/Windows")) / "Fonts")
    data = Path(os.environ.get("XDG_DATA_HOME", home / ".local/share"))
    return (data / "fonts", home / ".fonts", Path("/usr/local/share/fonts"), Path("/usr/share/fonts"))


def _some(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in list(names)[:3]) or "(none)"
