"""Indexes of shards, as they are needed: from memory, from the cache, or by looking into the shard."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from hashlib import blake2b
from urllib.parse import urlsplit

import numpy as np
from attrs import frozen

from qi_core import tars
from qi_core.entries import EXTENSIONS, Entry, Held, Limits
from qi_core.errors import QiError
from qi_core.pixels import Unusable
from qi_plugins.source_webdataset import index as indexes
from qi_plugins.source_webdataset.access import Access, Cache, Kept, OnDisk, Remote, digest
from qi_plugins.source_webdataset.ahead import Ahead
from qi_plugins.source_webdataset.component import WebDataset
from qi_plugins.source_webdataset.index import MOST_BESIDE, Index, Told
from qi_plugins.source_webdataset.names import Shard
from qi_plugins.source_webdataset.web import Web, token_of

AT_ONCE = 8
"""Shards that are looked into together."""
DENSE = 0.5
"""Share of a shard's bytes that samples must be made of, for it to be read as a whole."""
NEAR = 2**18
"""Bytes between two members of a sample that are read along rather than asked for apart."""


@frozen(eq=False)
class Opened:
    """A shard, its index, and which of its samples can be used as far as names and sizes tell."""

    shard: Shard
    access: Access
    index: Index
    usable: list[tuple[int, tars.Parts]]
    """Number in the index, and which member is what."""
    told: list[Told]
    digest: int
    """31 bits that stand for what is usable, and where it lies."""
    number: int
    """Of the shard, in its source."""
    ahead: Ahead | None = None
    """Where parts of it may be at hand."""
    shares: tuple[tuple[str, float], ...] = ()
    """Keys of captions in the .json, each with its share."""

    def __len__(self) -> int:
        return len(self.usable)

    def key(self, number: int) -> str:
        return f"{self.shard.name}{self.index.keys[self.usable[number][0]]}"

    def entry(self, number: int, limits: Limits) -> Entry:
        """With its bytes, in as few reads as its members lie near to each other. Raises Unusable."""
        at, chosen = self.usable[number]
        members = self.index.members(at)
        suffixes = [s for s in (chosen.image, chosen.caption, chosen.record, *chosen.references) if s]
        for suffix in suffixes:
            most = limits.file if f".{suffix}" in EXTENSIONS else limits.line
            if members[suffix][1] > most:
                raise Unusable("file too large", f"{suffix}: {members[suffix][1]} bytes, {most} allowed")
        if self.ahead is not None:
            self.ahead.takes(self.number, self.access, len(self))
        where = f"{self.shard.name}{self.index.keys[at]}"
        held: dict[str, Held] = {}
        for start, end, together in _spans({suffix: members[suffix] for suffix in suffixes}):
            data = self._part(start, end - start)
            if len(data) != end - start:
                raise Unusable("broken tar shard", "cut off since it was looked into")
            for suffix in together:
                offset, size = members[suffix]
                held[suffix] = Held(path=f"{where}.{suffix}", data=data[offset - start : offset - start + size])
        return tars.entry(where, chosen, held, limits, shares=self.shares)

    def _part(self, start: int, length: int) -> bytes:
        if self.ahead is None:
            return self.access.part(start, length)
        return self.ahead.part(self.number, self.access, start, length)


def _spans(members: dict[str, tuple[int, int]]) -> list[tuple[int, int, list[str]]]:
    """Stretches that hold them: start, end, and whose bytes are in it."""
    spans: list[tuple[int, int, list[str]]] = []
    for suffix, (offset, size) in sorted(members.items(), key=lambda each: each[1]):
        if spans and offset - spans[-1][1] <= NEAR:
            start, end, together = spans[-1]
            spans[-1] = (start, max(end, offset + size), [*together, suffix])
        else:
            spans.append((offset, offset + size, [suffix]))
    return spans


class Shelf:
    """Of all shards of a source. May be asked from any thread."""

    def __init__(self, settings: WebDataset, shards: tuple[Shard, ...], web: Web) -> None:
        self.shards = shards
        self._settings, self._web = settings, web
        self._cache = Cache.at(settings.cache, int(settings.keep_gib * 2**30))
        self._lock = threading.Lock()
        self._open: OrderedDict[int, Future[Opened]] = OrderedDict()
        self._room = 2 * settings.window + AT_ONCE
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="qi-shards")
        self._ahead = Ahead(int(settings.ahead_mib * 2**20), settings.window)

    @staticmethod
    def of(settings: WebDataset, shards: tuple[Shard, ...]) -> Shelf:
        """Raises QiError where a token isn't where it should be, or would go to several servers."""
        token = token_of(settings.token_env, settings.token_file)
        hosts = sorted({"{0.scheme}://{0.netloc}".format(urlsplit(shard.place)) for shard in shards if shard.remote})
        if token and len(hosts) != 1:
            told = f"these would all get it: {', '.join(hosts[:3])}" if hosts else "no shard has an address"
            raise QiError(
                f"source.token_env, source.token_file: a token is for one server; {told}; make a source for each"
            )
        web = Web(token=token, timeout=settings.timeout, patience=settings.patience, in_flight=settings.in_flight)
        return Shelf(settings, shards, web)

    def begin(self, number: int) -> Future[Opened]:
        """The shard, once it was looked into. One that failed is tried again when it is asked for again."""
        with self._lock:
            found = self._open.get(number)
            if found is None or (found.done() and found.exception() is not None):
                found = self._open[number] = self._pool.submit(self._look, number)
            self._open.move_to_end(number)
            while len(self._open) > self._room:
                self._ahead.lost(self._open.popitem(last=False)[0])
            return found

    def opened(self, number: int) -> Opened:
        """Raises Unusable where it is lost, and QiError where no try could do better."""
        return self.begin(number).result()

    def close(self) -> None:
        """Ends what is still going on."""
        self._ahead.close()
        self._web.close()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _access(self, shard: Shard) -> Access:
        access: Access
        if not shard.remote:
            access = OnDisk.at(shard.place)
        elif self._settings.keep == "shards":
            with self._cache.open(shard, self._web, self._settings.max_shard) as file:
                size = os.fstat(file.fileno()).st_size
            access = Kept(shard, self._cache, self._web, self._settings.max_shard, size)
        else:
            access = Remote.at(shard.place, self._web)
        if access.size > self._settings.max_shard:
            raise Unusable("shard too large", f"{access.size} bytes, {self._settings.max_shard} allowed")
        return access

    def _look(self, number: int) -> Opened:
        try:
            opened = self._looked_into(number)
        except Exception:
            self._ahead.lost(number)
            raise
        if opened.ahead is not None:
            self._ahead.opened(number, opened.access, len(opened))
        else:  # what came while it was looked into is of no use
            self._ahead.lost(number)
        return opened

    def _looked_into(self, number: int) -> Opened:
        shard = self.shards[number]
        access = self._access(shard)
        index = self._index(number, access)
        usable: list[tuple[int, tars.Parts]] = []
        told = list(index.told)
        known: dict[tuple[str, ...], tars.Parts | Unusable] = {}
        for at in range(len(index)):
            suffixes = index.of(at)
            if suffixes not in known:
                known[suffixes] = self._parts(suffixes)
            found = known[suffixes]
            if isinstance(found, Unusable):
                told.append((index.keys[at], found.reason, found.detail))
            else:
                usable.append((at, found))
        if not usable:
            reason = told[0][1:] if told else ("empty shard", "")
            raise Unusable(reason[0], f"no sample in it can be used; {reason[1]}")
        dense = _wanted(index, known) >= DENSE * access.size
        ahead = self._ahead if isinstance(access, Remote) and dense and self._settings.ahead_mib else None
        shares = tuple((each.key, each.share) for each in self._settings.caption_keys)
        return Opened(shard, access, index, usable, told, _digest(index, usable), number, ahead, shares)

    def _parts(self, suffixes: tuple[str, ...]) -> tars.Parts | Unusable:
        try:
            found = tars.parts(suffixes, self._settings.caption_extension, bool(self._settings.caption_keys))
        except Unusable as error:
            return error
        if self._settings.captions == "require" and not (found.caption or found.record):
            return Unusable("caption missing", f"{', '.join(suffixes)}")
        return found

    def _index(self, number: int, access: Access) -> Index:
        place = digest(self.shards[number])  # and not its address: that may hold what nobody should read on a disk
        name = f"{place}.{self._settings.index}.index"
        kept = self._cache.get(name)
        if kept is not None and (found := indexes.unpacked(kept, place, access.version)) is not None:
            return found
        index = self._beside(access) if self._settings.index == "beside" else None
        if index is None:
            index = indexes.read(self._scanned(number, access), access.size)
        self._cache.put(name, indexes.packed(index, place, access.version))
        return index

    def _scanned(self, number: int, access: Access) -> Callable[[int, int], bytes]:
        """Parts of a shard; those that come from afar are kept for the samples."""
        if not isinstance(access, Remote) or not self._settings.ahead_mib:
            return access.part

        def part(start: int, length: int) -> bytes:
            data = access.part(start, length)
            self._ahead.scanned(number, access, start, data)
            return data

        return part

    def _beside(self, access: Access) -> Index | None:
        """By the index beside the shard. One that doesn't fit is told with the shard, and not used."""
        text = access.beside(MOST_BESIDE)
        if text is None:
            return None
        try:
            return indexes.beside(text, access.part, access.size)
        except Unusable as error:
            index = indexes.read(access.part, access.size)
            index.told.append(("", error.reason, error.detail))
            return index


def _wanted(index: Index, known: dict[tuple[str, ...], tars.Parts | Unusable]) -> int:
    """About how many bytes of the shard are those of samples, their headers with them."""
    wanted: set[str] = set()
    for found in known.values():
        if not isinstance(found, Unusable):
            wanted |= {found.image, found.caption, found.record, *found.references}
    kinds = [kind for kind, suffix in enumerate(index.suffixes) if suffix in wanted]
    blocks = -(-index.sizes[np.isin(index.kinds, kinds)].astype(np.int64) // 512) + 1
    return int(blocks.sum()) * 512


def _digest(index: Index, usable: list[tuple[int, tars.Parts]]) -> int:
    content = blake2b(digest_size=4)
    for number, _ in usable:
        content.update(index.keys[number].encode("utf-8", "surrogatepass") + b"\0")
    content.update(np.array([number for number, _ in usable], "<u4").tobytes())
    content.update(index.offsets.tobytes() + index.sizes.tobytes())
    return int.from_bytes(content.digest()) >> 1
