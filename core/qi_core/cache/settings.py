"""The recipe's section ``[data.cache]``. No torch here."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeAlias
from urllib.parse import urlsplit

from attrs import Attribute, field, frozen, validators

Kept: TypeAlias = Literal["bf16", "fp32"]
ITEMSIZE: dict[Kept, int] = {"bf16": 2, "fp32": 4}
"""Bytes of a value."""


def _something(settings: CacheSettings, _: object, value: bool) -> None:
    if not value and not settings.latents:
        raise ValueError("'latents' and 'text' are both false, so nothing is kept; set one, or leave the cache out")


def _quota(settings: CacheSettings, attribute: Attribute[int], value: int) -> None:
    if value and value < 2 * settings.shard_bytes:
        least = 2 * settings.shard_bytes
        raise ValueError(f"'{attribute.name}' must be 0 (no limit) or at least two shards ({least} bytes): {value}")


def _addresses(_: object, attribute: Attribute[tuple[str, ...]], value: tuple[str, ...]) -> None:
    for address in value:
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError(f"'{attribute.name}': {address!r} is no address such as 'http://host:8000/cache'")


@frozen(kw_only=True)
class CacheSettings:
    """Where latents and text embeddings are kept, so that each picture and caption is encoded once."""

    path: Path
    """Folder. Runs, producers and machines may share it; each value in it names the encoder that made it."""
    latents: bool = True
    """Keep pictures, references included, as the autoencoder gave them."""
    text: bool = field(default=True, validator=_something)
    """Keep captions as the conditioner gave them: 98 % of all bytes at 256 pixels. False: encoded each time."""
    dtype: Kept = "bf16"
    """What values are rounded to, whether they come from the disk or were encoded just now."""
    shard_bytes: int = field(default=512 << 20, validator=[validators.ge(1 << 16), validators.le(16 << 30)])
    """Size at which a shard is closed and published."""
    publish_seconds: float = field(default=300.0, validator=validators.gt(0))
    """A shard that is still open after so long is published as it is; what isn't published is lost with a process."""
    quota: int = field(default=0, validator=_quota)
    """Bytes that the folder may have; 0: as many as the disk."""
    full: Literal["stop", "evict"] = "stop"
    """What to do at the quota. stop: keep what is there and store nothing more, best where data come round again and
    again in another order. evict: the shards that were not read for longest leave, best where data change."""
    mirrors: tuple[str, ...] = field(default=(), validator=_addresses)
    """Addresses of other caches' folders, by any static server that knows Range, or producers' /v1/shard: what isn't
    here is read there before it is encoded."""
    keep: bool = True
    """Store what a mirror gave."""
    token_file: Path | None = None
    """File of one line, which the mirrors want as a bearer token."""
    one_by_one: bool = False
    """Encode each missing picture and caption by itself: slower, and then no last bit depends on what else was missing
    in the same call."""
