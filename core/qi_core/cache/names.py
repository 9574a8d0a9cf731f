"""From a sample's name to what is kept of it, so that later epochs need not even open its file.

The cache knows a picture by its pixels, which are known when it is decoded, scaled and cropped. A *name* stands for all
of that beforehand: a digest, by the source, of the file (its path, size and time), of the place in it, and of every
setting that decides the pixels. What it leads to lies in shards of its own kind, some 200 bytes a sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import msgspec
from msgspec import Struct

from qi_core.cache.index import ID_BYTES
from qi_core.cache.manifest import Form
from qi_core.cache.shelf import Shelf

VERSION = 1
MOST = 1 << 20
"""Bytes of a record."""


class Known(Struct, frozen=True, forbid_unknown_fields=True):
    """What a sample is, without its pixels."""

    key: str
    prompt: str
    height: int
    """Pixels, as trained on."""
    width: int
    latents: bytes
    """``CachedAutoencoder.id`` of its picture."""
    text: bytes
    """``CachedConditioner.id`` of its prompt with its references."""
    references: tuple[bytes, ...] = ()
    """``CachedAutoencoder.id`` of each."""
    category: str = ""
    loser: bytes = b""
    """``CachedAutoencoder.id`` of the picture that the other was preferred to; empty: it is no pair."""


class Names:
    """Names of one pipeline."""

    def __init__(self, shelf: Shelf, pipeline: bytes) -> None:
        """``pipeline`` names what decides samples beside their names: source, encoders, filters, versions."""
        self._shelf = shelf
        self._hash = blake2b(pipeline, digest_size=ID_BYTES, person=b"qi-names")
        encoder = self._hash.hexdigest()
        self._form = Form(kind="names", encoder=encoder, bucket=(0, 0, 0), dtype="U8", width=1)

    def put(self, name: bytes, known: Known) -> None:
        """Keep what a sample turned out to be."""
        data = msgspec.msgpack.encode((VERSION, known))
        if len(data) <= MOST:
            self._shelf.put(self._form, self._id(name), (1, 1, len(data)), data)

    def get(self, names: Sequence[bytes]) -> list[Known | None]:
        """None for those that have to be made."""
        hits = self._shelf.find([self._id(name) for name in names])
        wanted = [(i, hit) for i, hit in enumerate(hits) if hit is not None and 0 < hit.entry.length <= MOST]
        buffers = [bytearray(hit.entry.length) for _, hit in wanted]
        good = self._shelf.read([hit for _, hit in wanted], [memoryview(buffer) for buffer in buffers])
        found: list[Known | None] = [None] * len(names)
        for (i, _), buffer, fine in zip(wanted, buffers, good, strict=True):
            if fine:
                found[i] = _decoded(buffer)
        return found

    def _id(self, name: bytes) -> bytes:
        hashed = self._hash.copy()
        hashed.update(name)
        return hashed.digest()


def _decoded(data: bytearray) -> Known | None:
    """None for a record of another version."""
    try:
        version, known = msgspec.msgpack.decode(data, type=tuple[int, Known])
    except msgspec.MsgspecError:
        return None
    return known if version == VERSION else None
