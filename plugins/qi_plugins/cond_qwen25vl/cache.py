"""Encoded prompts, kept on the CPU under a bound of memory."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor


def key_of(identity: bytes, template: str, prompt: str, pictures: Sequence[Tensor]) -> bytes:
    """A name for one encoder's answer to exactly this prompt and these pictures, each (3, H, W) uint8."""
    digest = hashlib.blake2b(identity, digest_size=20)
    for part in (template.encode(), prompt.encode()):
        digest.update(len(part).to_bytes(8, "little") + part)
    for picture in pictures:
        digest.update(repr(tuple(picture.shape)).encode())
        digest.update(picture.cpu().contiguous().numpy().data)
    return digest.digest()


class Cache:
    """Least recently used entries leave first."""

    def __init__(self, limit: int) -> None:
        """``limit``: bytes."""
        self._limit = limit
        self._held = 0
        self._entries: OrderedDict[bytes, Tensor] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: bytes) -> Tensor | None:
        """(L, W) on the CPU, or None."""
        if key not in self._entries:
            return None
        self._entries.move_to_end(key)
        return self._entries[key]

    def put(self, key: bytes, text_LW: Tensor) -> None:
        """Keep a copy: the tensor itself is often a slice that would hold its whole batch in memory."""
        size = text_LW.nbytes
        if size > self._limit or key in self._entries:
            return
        self._entries[key] = text_LW.detach().to("cpu", copy=True)
        self._held += size
        while self._held > self._limit:
            self._held -= self._entries.popitem(last=False)[1].nbytes
