"""Which shards there are: a file that only grows, a line a shard. What has no line doesn't exist."""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeAlias

from attrs import asdict, frozen

from qi_core.checksum import checksum, hex_of
from qi_core.errors import QiError
from qi_core.files import sync_folder

Why: TypeAlias = Literal["evicted", "spoiled", "missing"]
NAME = re.compile(r"[0-9a-f]{40}")
FILE = "manifest.jsonl"
MOST_LINE = 4096
VERSION = 2
"""Of lines, indexes and checksums."""
_CHECK = re.compile(rb'^(\{.*), "check": "([0-9a-f]{16})"\}$')
_FIRST = re.compile(rb'^\{.*, "check": "[0-9a-f]{8}"\}$')
"""A line of version 1, which had another checksum."""


@frozen(kw_only=True)
class Form:
    """What all entries of a shard have in common."""

    kind: str
    """latents, text or names."""
    encoder: str
    """Digest of what decides the values: settings, weights, version."""
    bucket: tuple[int, int, int]
    """Grid of tokens of each entry; (0, 0, 0) where entries are of any length."""
    dtype: str
    """As safetensors calls it."""
    width: int
    """Values in a token."""


@frozen(kw_only=True)
class Shard:
    """A published shard."""

    name: str
    form: Form
    entries: int
    bytes: int
    """Of its file."""
    index_bytes: int

    @property
    def size(self) -> int:
        """Bytes on the disk."""
        return self.bytes + self.index_bytes


class Listing:
    """What the lines say, wherever they come from."""

    def __init__(self, where: str, tell: Callable[[str], None]) -> None:
        self.live: dict[str, Shard] = {}
        """In the order in which they were published."""
        self.gone: dict[str, Why] = {}
        self.bytes = 0
        """Of all that are live, on the disk."""
        self.version = 0
        """Another one after every change."""
        self._where, self._tell = where, tell

    def take(self, line: bytes) -> Shard | None:
        """One line: a shard that is new, or one that is gone. A damaged line is told and left out. Raises QiError for
        one that another version of the format has written."""
        if not line.strip():
            return None
        if _FIRST.match(line):
            self._refuse(1)
        try:
            told = _checked(line)
            if "gone" in told:
                self.lose(_name(told["gone"]), told["why"])
                return None
            if told["version"] != VERSION:
                self._refuse(told["version"])
            shard = _shard(told)
        except (ValueError, KeyError, TypeError) as error:
            self._tell(f"{self._where}: a line is damaged and left out ({error}): {line[:80]!r}")
            return None
        self.gone.pop(shard.name, None)
        if shard.name in self.live:
            return None
        self.live[shard.name] = shard
        self.bytes += shard.size
        self.version += 1
        return shard

    def _refuse(self, version: int) -> NoReturn:
        raise QiError(
            f"{self._where}: a cache of version {version} of the format; version {VERSION} was wanted: give another "
            "folder (data.cache.path), or delete this one and all is encoded again"
        )

    def lose(self, name: str, why: Why) -> None:
        """It is gone."""
        shard = self.live.pop(name, None)
        self.bytes -= 0 if shard is None else shard.size
        self.gone[name] = why
        self.version += 1


class Manifest(Listing):
    """The lines of a folder, as far as they were read."""

    def __init__(self, folder: Path, tell: Callable[[str], None]) -> None:
        super().__init__(str(folder / FILE), tell)
        self.path = folder / FILE
        self._at = 0
        self._rest = b""

    def refresh(self) -> None:
        """Read what others, or this process, have appended. Raises OSError."""
        try:
            with self.path.open("rb") as file:
                file.seek(self._at)
                while data := file.read(1 << 20):
                    self._at += len(data)
                    *lines, self._rest = (self._rest + data).split(b"\n")
                    for line in lines:
                        self.take(line)
        except FileNotFoundError:
            pass

    @contextmanager
    def locked(self) -> Generator[None]:
        """Only this process publishes or takes away; for moments, never while data are written."""
        with self.path.with_name("lock").open("a+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def publish(self, shard: Shard) -> None:
        """With the lock held, the files in place: from now on it exists."""
        self._append({"shard": shard.name, "version": VERSION, **asdict(shard.form), **_counts(shard)})

    def withdraw(self, name: str, why: Why) -> None:
        """With the lock held: it doesn't exist any more."""
        self._append({"gone": name, "why": why})

    def _append(self, told: Mapping[str, Any]) -> None:
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            end = os.fstat(descriptor).st_size
            # A line that a crash has cut off must not swallow this one.
            torn = end > 0 and os.pread(descriptor, 1, end - 1) != b"\n"
            line = (b"\n" if torn else b"") + _line(told)
            if os.write(descriptor, line) != len(line):
                raise OSError(28, "the line of the manifest was cut off")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if not end:
            sync_folder(self.path.parent)


def _line(told: Mapping[str, Any]) -> bytes:
    text = json.dumps(told)[:-1].encode()
    return text + f', "check": "{hex_of(checksum(text))}"}}\n'.encode()


def _checked(line: bytes) -> dict[str, Any]:
    found = _CHECK.match(line) if len(line) <= MOST_LINE else None
    if found is None or hex_of(checksum(found[1])).encode() != found[2]:
        raise ValueError("its checksum is another")
    told: dict[str, Any] = json.loads(found[1] + b"}")
    return told


def _name(name: Any) -> str:
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ValueError("no name of a shard")
    return name


def _counts(shard: Shard) -> dict[str, int]:
    return {"entries": shard.entries, "bytes": shard.bytes, "index_bytes": shard.index_bytes}


def _shard(told: Mapping[str, Any]) -> Shard:
    frames, rows, columns = (int(number) for number in told["bucket"])
    numbers = [int(told[key]) for key in ("width", "entries", "bytes", "index_bytes")]
    if min(numbers, default=0) < 0:
        raise ValueError("a number below 0")
    return Shard(
        name=_name(told["shard"]),
        form=Form(
            kind=str(told["kind"]),
            encoder=str(told["encoder"]),
            bucket=(frames, rows, columns),
            dtype=str(told["dtype"]),
            width=numbers[0],
        ),
        entries=numbers[1],
        bytes=numbers[2],
        index_bytes=numbers[3],
    )
