"""The bytes of a shard, wherever it lies: on disk, behind HTTP, or fetched whole into the cache."""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from time import monotonic, sleep, time
from typing import BinaryIO, Protocol

from attrs import define, field, frozen

from qi_core.errors import QiError
from qi_core.pixels import Unusable
from qi_plugins.source_webdataset.names import Shard
from qi_plugins.source_webdataset.web import Web

_LOG = logging.getLogger("qi.source")
_LOCKED = 3600.0
"""Seconds to wait for another process that fetches the same shard."""
_LATELY = 60.0
"""Seconds: who was used within them, and has to make room, will be asked for again."""


class Access(Protocol):
    """An open shard."""

    @property
    def size(self) -> int:
        """Bytes."""
        ...

    @property
    def version(self) -> str:
        """Another one means that the shard was changed."""
        ...

    def part(self, start: int, length: int) -> bytes:
        """Of the shard; less at its end. Raises Unusable if it cannot be read, or is not what it was."""
        ...

    def beside(self, most: int) -> bytes | None:
        """The index that lies beside it; None if there is none, or it is larger."""
        ...


@frozen
class OnDisk:
    """A file."""

    path: Path
    size: int
    version: str

    @staticmethod
    def at(path: str | Path) -> OnDisk:
        """Raises Unusable if there is none."""
        try:
            status = os.stat(path)
        except OSError as error:
            raise Unusable("is not there", f"{path}: {error.strerror}") from error
        return OnDisk(Path(path), status.st_size, f"{status.st_size}/{status.st_mtime_ns}")

    def part(self, start: int, length: int) -> bytes:
        try:
            with self.path.open("rb") as file:
                status = os.fstat(file.fileno())
                if f"{status.st_size}/{status.st_mtime_ns}" != self.version:
                    raise Unusable("changed since it was looked into", str(self.path))
                return os.pread(file.fileno(), length, start)
        except OSError as error:
            raise Unusable("cannot be read", f"{self.path}: {error.strerror}") from error

    def beside(self, most: int) -> bytes | None:
        path = self.path.with_suffix(".idx")
        try:
            return path.read_bytes() if path.is_file() and path.stat().st_size <= most else None
        except OSError:
            return None


@frozen
class Remote:
    """A file behind HTTP, of which parts are asked for."""

    url: str
    web: Web
    size: int
    version: str

    @staticmethod
    def at(url: str, web: Web) -> Remote:
        """Asks for its first block."""
        found = web.part(url, 0, 512)
        return Remote(url, web, found.total, found.version)

    def part(self, start: int, length: int) -> bytes:
        found = self.web.part(self.url, start, length)
        if found.version != self.version:
            raise Unusable("changed since it was looked into", f"{self.version} then, {found.version} now")
        return found.data

    def beside(self, most: int) -> bytes | None:
        place, mark, query = self.url.partition("?")
        try:
            found = self.web.part(f"{place.removesuffix('.tar')}.idx{mark}{query}", 0, most)
        except (Unusable, QiError):  # no index is nothing to speak of, whatever a server says instead
            return None
        return found.data if found.total <= most else None


@frozen
class Kept:
    """A file that was behind HTTP and lies in the cache now; fetched again where it had to make room."""

    shard: Shard
    cache: Cache
    web: Web
    most: int
    """Bytes that a shard may have."""
    size: int

    @property
    def version(self) -> str:
        return f"{self.size}"

    def part(self, start: int, length: int) -> bytes:
        try:
            with self.cache.open(self.shard, self.web, self.most) as file:
                if os.fstat(file.fileno()).st_size != self.size:
                    raise Unusable("changed since it was looked into", f"{self.size} bytes then")
                return os.pread(file.fileno(), length, start)
        except OSError as error:
            raise Unusable("cannot be read", f"{self.shard.name}: {error.strerror}") from error

    def beside(self, most: int) -> bytes | None:
        return None  # the shard is at hand: reading its headers costs little


@define
class Cache:
    """The folder of indexes and of whole shards; of several processes."""

    folder: Path
    room: int
    """Bytes of whole shards."""
    _told: bool = field(default=False, init=False)
    _cramped: bool = field(default=False, init=False)

    @staticmethod
    def at(folder: str, room: int) -> Cache:
        default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "qi" / "shards"
        return Cache(Path(folder).expanduser() if folder else default, room)

    def get(self, name: str) -> bytes | None:
        try:
            return (self.folder / name).read_bytes()
        except OSError:
            return None

    def put(self, name: str, content: bytes) -> None:
        """Where that fails, a later start takes longer: told once."""
        from qi_core.files import write_whole

        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(self.folder / name, content)
        except (OSError, QiError) as error:
            if not self._told:
                _LOG.warning("%s: indexes of shards cannot be kept, so the next start reads them again", error)
            self._told = True

    def open(self, shard: Shard, web: Web, most: int) -> BinaryIO:
        """The whole shard, fetched if it isn't there. It is not asked for again as long as it is.

        Raises Unusable where it cannot be reached, and QiError where it cannot be kept.
        """
        path = self.folder / f"{digest(shard)}.tar"
        try:
            return self._used(path)
        except FileNotFoundError:
            pass
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with _alone(path.with_suffix(".lock")):
                if not path.exists():
                    self._fetch(shard, web, path, most)
                return self._used(path)
        except OSError as error:
            raise QiError(
                f"{self.folder}: shards cannot be kept there ({error.strerror}); make room, or set source.cache to "
                "another folder"
            ) from error

    def _used(self, path: Path) -> BinaryIO:
        file = path.open("rb")
        try:
            path.with_suffix(".used").touch()
        except OSError:
            file.close()
            raise
        return file

    def _fetch(self, shard: Shard, web: Web, path: Path, most: int) -> None:
        beside = path.with_suffix(f".{os.getpid()}.part")
        try:
            with beside.open("w+b") as file:
                size, _ = web.whole(shard.place, file, min(most, self.room))
                file.flush()
                os.fsync(file.fileno())
            with _alone(self.folder / "room.lock"):
                self._make_room(size, path)
                beside.rename(path)
        finally:
            beside.unlink(missing_ok=True)

    def _make_room(self, size: int, own: Path) -> None:
        """Those that were used longest ago go, and what a process left behind that was killed while it fetched."""
        now = time()
        for left in self.folder.glob("*.part"):
            if now - _changed(left, now) > _LOCKED:
                left.unlink(missing_ok=True)

        def used(path: Path) -> float:
            return _changed(path.with_suffix(".used"), 0.0)

        held = sorted((path for path in self.folder.glob("*.tar") if path != own), key=used)
        total = sum(_size(path) for path in held)
        for path in held:
            if total + size <= self.room:
                return
            if now - used(path) < _LATELY and not self._cramped:
                self._cramped = True
                _LOG.warning(
                    "%s: %d bytes are too few for the shards that are drawn from now: they are fetched again and "
                    "again; raise source.keep_gib, or lower source.window",
                    self.folder,
                    self.room,
                )
            total -= _size(path)
            for each in (path, path.with_suffix(".used")):
                each.unlink(missing_ok=True)


def _changed(path: Path, otherwise: float) -> float:
    """When it was written last, in seconds; ``otherwise`` where it is not there."""
    try:
        return path.stat().st_mtime
    except OSError:
        return otherwise


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def digest(shard: Shard) -> str:
    """Stands for its place in names of files, whatever signature its address has today."""
    return blake2b(shard.unsigned.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


@contextmanager
def _alone(path: Path, longest: float = _LOCKED) -> Iterator[None]:
    """One process at a time; the lock goes with the process. After ``longest`` seconds who waits does it too."""
    end = monotonic() + longest
    with path.open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if monotonic() > end:
                    break
                sleep(0.05)
        yield
