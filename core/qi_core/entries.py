"""What an index of pictures holds: where a sample's bytes are. Nothing here is decoded."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, BinaryIO

from attrs import frozen

from qi_core.blob import Blob
from qi_core.pixels import Unusable

EXTENSIONS = (
    ".png", ".jpg", ".jpeg", ".jfif", ".webp", ".avif", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm",
)  # fmt: skip
"""What counts as a picture by its name. What it really is, its first bytes tell."""


@frozen(kw_only=True)
class Held(Blob):
    """Bytes in memory, read from where ``path`` says."""

    path: str
    data: bytes

    def stamped(self) -> tuple[Blob, int]:
        return self, len(self.data)

    def open(self, most: int, too_large: str = "file too large") -> tuple[BinaryIO, int]:
        return io.BytesIO(self.read(most, too_large)), len(self.data)

    def read(self, most: int, too_large: str = "file too large") -> bytes:
        if len(self.data) > most:
            raise Unusable(too_large, f"{len(self.data)} bytes, {most} allowed")
        return self.data


@frozen
class Limits:
    """What bad input may cost at most."""

    pixels: int
    file: int
    caption: int
    line: int


@frozen
class Entry:
    """A sample, by where its parts are."""

    key: str
    image: Blob
    caption: str | Blob | None
    references: tuple[Blob, ...] = ()
    category: str = ""
    """Where it stands in a hierarchy, such as people/portrait, where that was asked for and is known."""
    texts: tuple[tuple[str, float], ...] = ()
    """Captions, each with its share, of which every epoch takes one in place of ``caption``."""


def cleaned(category: str) -> str:
    """A path without empty steps and without space around its steps: ``/people//portrait /`` -> people/portrait."""
    return "/".join(step.strip() for step in category.split("/") if step.strip())


def category_of(record: dict[str, Any]) -> str:
    """The category of a JSON record, empty if it has none. Raises Unusable if it is no string."""
    category = record.get("category")
    if category is not None and not isinstance(category, str):
        raise Unusable("category is no text", repr(category)[:200])
    return cleaned(category or "")


def category_if_any(record: dict[str, Any]) -> str:
    """The same where nobody asked for it: what is no string (a number, say) is none, and costs no sample."""
    return cleaned(record["category"]) if isinstance(record.get("category"), str) else ""


def caption_of(record: dict[str, Any]) -> str | None:
    """The caption of a JSON record. Raises Unusable if it is no string."""
    caption = next((record[name] for name in ("caption", "text", "prompt") if record.get(name) is not None), None)
    if caption is not None and not isinstance(caption, str):
        raise Unusable("caption is no text", repr(caption)[:200])
    return caption


def texts_of(record: dict[str, Any], shares: Sequence[tuple[str, float]]) -> tuple[tuple[str, float], ...]:
    """Those that a JSON record has of the captions that ``shares`` names. Raises Unusable if one is no string."""
    found: list[tuple[str, float]] = []
    for name, share in shares:
        text = record.get(name)
        if text is not None and not isinstance(text, str):
            raise Unusable("caption is no text", repr(text)[:200])
        if text and text.strip():
            found.append((text, share))
    return tuple(found)
