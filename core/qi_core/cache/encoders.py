"""Encoders that look before they encode: they stand in for the bare ones, and behave as they do.

What they give is rounded to the cache's dtype, whether it was read or encoded just now, so that what is on the disk
decides how long a run takes and never what it computes.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from hashlib import blake2b
from itertools import pairwise
from typing import Literal

import torch
from attrs import evolve, frozen
from torch import Tensor

from qi_core.cache.index import ID_BYTES
from qi_core.cache.manifest import Form
from qi_core.cache.settings import CacheSettings
from qi_core.cache.shelf import Hit, Shelf
from qi_core.data import Condition, Grid, Latents, grid_tokens
from qi_core.encoder import Autoencoder, Conditioner, Encoders
from qi_core.pixels import Unusable

KEPT = {"bf16": (torch.bfloat16, "BF16"), "fp32": (torch.float32, "F32")}
ANY: Grid = (0, 0, 0)


class NotFinite(Unusable):
    """An encoder gave NaN or infinity. The others of the call are kept, so asking again for them costs little."""

    def __init__(self, reason: str, detail: str, which: tuple[int, ...]) -> None:
        super().__init__(reason, detail)
        self.which = which
        """The places, in the call, of those that can't be used."""


@frozen(kw_only=True, eq=False)
class Block:
    """Encoded values of one picture or caption, on the CPU."""

    grid: Grid
    values: Tensor
    """(tokens, width), in the cache's dtype."""


def cached(encoders: Encoders, shelf: Shelf, autoencoder: bytes, conditioner: bytes) -> Encoders:
    """Encoders that keep what the settings say. ``autoencoder`` and ``conditioner`` name what decides their values:
    settings, weights and the dtype that they compute in."""
    settings = shelf.settings
    return evolve(
        encoders,
        autoencoder=CachedAutoencoder(encoders.autoencoder, shelf, autoencoder)
        if settings.latents
        else encoders.autoencoder,
        conditioner=CachedConditioner(encoders.conditioner, shelf, conditioner)
        if settings.text
        else encoders.conditioner,
    )


class CachedAutoencoder:
    """See ``Autoencoder``."""

    def __init__(self, bare: Autoencoder, shelf: Shelf, identity: bytes) -> None:
        self.bare, self.identity = bare, identity
        self._keeper = Keeper(shelf, "latents", identity, bare.width, "latent is not finite")
        self._like: Tensor | None = None

    @property
    def width(self) -> int:
        return self.bare.width

    @property
    def scale(self) -> int:
        return self.bare.scale

    def id(self, image: Tensor) -> bytes:
        """By which the latents of exactly these pixels are found."""
        return self._keeper.id(*_told(image))

    def take(self, ids: Sequence[bytes]) -> list[Block | None]:
        """Latents by their ids alone: None for those that have to be encoded. Raises NotFinite."""
        return self._keeper.take(ids)

    def packed(self, blocks: Sequence[Block]) -> Latents:
        """What ``encode`` gives for these."""
        if self._like is None:
            self._like = (
                self.bare.encode([torch.zeros(3, self.scale, self.scale, dtype=torch.uint8)]).tokens[:0].clone()
            )
        return Latents(tokens=_joined(blocks, self._like), grids=tuple(block.grid for block in blocks))

    @torch.no_grad()
    def encode(self, images: Sequence[Tensor]) -> Latents:
        if not images or any(image.requires_grad for image in images):
            return self.bare.encode(images)

        def fresh(which: Sequence[int]) -> tuple[Sequence[Grid], Tensor]:
            latents = self.bare.encode([images[i] for i in which])
            self._like = latents.tokens.new_empty(0, self.width)
            return latents.grids, latents.tokens

        sizes = [f"picture {i + 1} of {len(images)}, {im.shape[-1]}x{im.shape[-2]}" for i, im in enumerate(images)]
        return self.packed(self._keeper.have([self.id(image) for image in images], fresh, sizes))

    def decode(self, latents: Latents, *, whole: bool = False) -> list[Tensor]:
        return self.bare.decode(latents, whole=whole)


class CachedConditioner:
    """See ``Conditioner``."""

    def __init__(self, bare: Conditioner, shelf: Shelf, identity: bytes) -> None:
        self.bare = bare
        self._keeper = Keeper(shelf, "text", identity, bare.width, "text embedding is not finite")
        self._like: Tensor | None = None

    @property
    def width(self) -> int:
        return self.bare.width

    def id(self, prompt: str, references: Sequence[Tensor] = ()) -> bytes:
        """By which the tokens of exactly this prompt with exactly these pictures are found."""
        told = prompt.encode("utf-8", "surrogatepass")
        return self._keeper.id(told, *(part for image in references for part in _told(image)))

    def take(self, ids: Sequence[bytes]) -> list[Block | None]:
        """Captions by their ids alone: None for those that have to be encoded. Raises NotFinite."""
        return self._keeper.take(ids)

    def packed(self, blocks: Sequence[Block]) -> Condition:
        """What ``encode`` gives for these."""
        if self._like is None:
            self._like = self.bare.encode([""]).text[:0]
        return Condition(text=_joined(blocks, self._like), lengths=tuple(block.grid[2] for block in blocks))

    @torch.no_grad()
    def encode(self, prompts: Sequence[str], references: Sequence[Sequence[Tensor]] = ()) -> Condition:
        if not prompts or (references and len(references) != len(prompts)):
            return self.bare.encode(prompts, references)  # which says what is wrong
        shown: Sequence[Sequence[Tensor]] = references or [()] * len(prompts)

        def fresh(which: Sequence[int]) -> tuple[Sequence[Grid], Tensor]:
            pictures = [shown[i] for i in which]
            condition = self.bare.encode([prompts[i] for i in which], pictures if any(map(len, pictures)) else ())
            self._like = condition.text.new_empty(0, self.width)
            return [(1, 1, length) for length in condition.lengths], condition.text

        ids = [self.id(prompt, own) for prompt, own in zip(prompts, shown, strict=True)]
        return self.packed(self._keeper.have(ids, fresh, [f"prompt {prompt[:60]!r}" for prompt in prompts]))


class Keeper:
    """What both have in common: one kind of values of one encoder."""

    def __init__(
        self, shelf: Shelf, kind: Literal["latents", "text"], identity: bytes, width: int, broken: str
    ) -> None:
        settings: CacheSettings = shelf.settings
        self._shelf, self._width, self._broken = shelf, width, broken
        self._dtype, self._called = KEPT[settings.dtype]
        self._kind, self._alone = kind, settings.one_by_one
        self._hash = blake2b(digest_size=ID_BYTES)
        for part in (identity, kind.encode(), self._called.encode(), str(width).encode()):
            self._hash.update(struct.pack("<Q", len(part)) + part)
        self._encoder = self._hash.hexdigest()

    def id(self, *parts: bytes | memoryview) -> bytes:
        """Of what is encoded: the encoder's digest comes first."""
        hashed = self._hash.copy()
        for part in parts:
            hashed.update(struct.pack("<Q", len(part)))
            hashed.update(part)
        return hashed.digest()

    def have(
        self,
        ids: Sequence[bytes],
        fresh: Callable[[Sequence[int]], tuple[Sequence[Grid], Tensor]],
        names: Sequence[str],
    ) -> list[Block]:
        """Those of the ids, read or encoded. Raises NotFinite.

        ``fresh`` encodes those at some places. ``names``: what each is called in an error.
        """
        first = {id: i for i, id in reversed(list(enumerate(ids)))}  # one that comes twice is encoded once
        places = sorted(first.values())
        blocks, refused = self._read([ids[i] for i in places])
        known = {ids[i]: block for i, block in zip(places, blocks, strict=True) if block is not None}
        bad = {ids[places[i]] for i in refused}
        missing = [i for i in places if ids[i] not in known and ids[i] not in bad]
        for part in [[i] for i in missing] if self._alone else [missing] if missing else []:
            grids, tokens = fresh(part)
            kept = tokens.detach().to(self._dtype)
            sound = _finite(kept)  # of all at once, where they were made; of each only if that fails
            for i, grid, values in zip(
                part, grids, torch.split(kept.cpu(), list(map(grid_tokens, grids))), strict=True
            ):
                if sound or _finite(values):
                    known[ids[i]] = Block(grid=grid, values=values.contiguous())
                    self._put(ids[i], known[ids[i]])
                else:
                    bad.add(ids[i])
                    self._shelf.put(self._form(grid), ids[i], grid, b"", reason=self._broken)
        self._refuse([i for i, id in enumerate(ids) if id in bad], names)
        return [known[id] for id in ids]

    def take(self, ids: Sequence[bytes]) -> list[Block | None]:
        """See ``CachedAutoencoder.take``."""
        blocks, refused = self._read(ids)
        self._refuse(refused, [f"entry {id.hex()}" for id in ids])
        return blocks

    def _refuse(self, places: Sequence[int], names: Sequence[str]) -> None:
        if places:
            raise NotFinite(self._broken, "; ".join(names[i] for i in places[:3]), tuple(places))

    def _read(self, ids: Sequence[bytes]) -> tuple[list[Block | None], list[int]]:
        """What could be read, all into one buffer; and the places of what is known to be of no use."""
        hits = self._shelf.find(ids)
        refused = [i for i, hit in enumerate(hits) if hit is not None and hit.refused]
        wanted = [i for i, hit in enumerate(hits) if hit is not None and not hit.refused and self._fits(hit)]
        found = [hit for i in wanted if (hit := hits[i]) is not None]
        ends = [0]
        for hit in found:
            ends.append(ends[-1] + hit.entry.length)
        buffer = torch.empty(ends[-1], dtype=torch.uint8)
        raw = memoryview(buffer.numpy())  # type: ignore[arg-type]
        views = [raw[start:end] for start, end in pairwise(ends)]
        blocks: list[Block | None] = [None] * len(ids)
        for i, hit, good, at in zip(wanted, found, self._shelf.read(found, views), ends, strict=False):
            if good:
                values = buffer[at : at + hit.entry.length].view(self._dtype)
                blocks[i] = Block(grid=hit.entry.grid, values=values.view(grid_tokens(hit.entry.grid), self._width))
        return blocks, refused

    def _fits(self, hit: Hit) -> bool:
        return hit.entry.length == grid_tokens(hit.entry.grid) * self._width * self._dtype.itemsize

    def _put(self, id: bytes, block: Block) -> None:
        self._shelf.put(self._form(block.grid), id, block.grid, _bytes(block.values))

    def _form(self, grid: Grid) -> Form:
        bucket = grid if self._kind == "latents" else ANY
        return Form(kind=self._kind, encoder=self._encoder, bucket=bucket, dtype=self._called, width=self._width)


def _bytes(values: Tensor) -> memoryview:
    return memoryview(values.reshape(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]


def _told(image: Tensor) -> tuple[bytes, memoryview]:
    """Shape and dtype of a picture, and its values."""
    about = f"{tuple(image.shape)} {image.dtype}".encode()
    return about, _bytes(image.detach().cpu().contiguous())


def _finite(values: Tensor) -> bool:
    """By the extremes alone: a NaN among the values makes both of them NaN."""
    if not values.numel():
        return True
    low, high = torch.aminmax(values)
    return bool(torch.isfinite(low) & torch.isfinite(high))


def _joined(blocks: Sequence[Block], like: Tensor) -> Tensor:
    """End to end, in the dtype and on the device of the bare encoder; rounded values cross to it."""
    if not blocks:
        return like
    parts = [block.values for block in blocks]
    values = parts[0] if len(parts) == 1 else torch.cat(parts)
    return values.to(like.device).to(like.dtype)
