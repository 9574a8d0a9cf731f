"""What has been annotated: a JSONL that only grows, so that a process may be killed at any moment.

Beside it stands the list of what could not be annotated. Each line is written whole, after its answer was checked; one
that was cut off by the end of the process is cut away at the next start, and its picture is asked for again.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from time import monotonic
from typing import Any

from qi_core.errors import QiError

FLUSH = 1.0
"""Seconds between two flushes to the disk: what a machine that loses power may lose."""


class Lines:
    """A JSONL that one process appends to."""

    def __init__(self, path: Path) -> None:
        """Raises QiError if another process has it, or it cannot be written."""
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise QiError(f"{path}: cannot be written ({error.strerror}); give another file by -o") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._file)
            raise QiError(
                f"{path}: another process is writing to it; wait for it, or give another file by -o"
            ) from None
        self._flushed = monotonic()

    def read(self) -> Iterator[dict[str, Any]]:
        """The lines that are whole; what follows the last of them is cut away. Raises QiError at one that is none."""
        whole = 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    break
                whole += len(line)
                if not line.strip():
                    continue
                try:
                    record = json.loads(line)
                except (ValueError, RecursionError):
                    record = None
                if not isinstance(record, dict):
                    raise QiError(f"{self.path}, line {number}: no JSON object; mend or remove that line")
                yield record
        if os.fstat(self._file).st_size > whole:
            os.truncate(self._file, whole)

    def append(self, record: Mapping[str, Any]) -> None:
        """In one write. Raises QiError."""
        line = (json.dumps(record, ensure_ascii=False) + "\n").encode("utf-8", "surrogatepass")
        try:
            line.decode()
        except UnicodeDecodeError:  # a file name that is no text
            line = (json.dumps(record) + "\n").encode()
        try:
            if os.write(self._file, line) < len(line):
                raise OSError(0, "only a part of a line could be written")
            if monotonic() - self._flushed > FLUSH:
                os.fsync(self._file)
                self._flushed = monotonic()
        except OSError as error:
            raise QiError(f"{self.path}: cannot be written ({error.strerror}); make room and start again") from error

    def close(self) -> None:
        os.fsync(self._file)
        os.close(self._file)


class Journal:
    """The annotations of one file, and the failures beside it."""

    def __init__(self, path: Path, *, model: str, prompt: str, anew: bool = False) -> None:
        """``model`` and ``prompt``: all that is there must be by them. ``anew``: failures are tried once more."""
        self.path = path
        self.failures = path.with_name(f"{path.stem}.failed{path.suffix or '.jsonl'}")
        self._same = {"model": model, "prompt": prompt}
        self._kept = Lines(path)
        try:
            self._failed = Lines(self.failures)
        except QiError:
            self._kept.close()
            raise
        self.done: set[str] = set()
        self.sizes: dict[str, int] = {}
        """Bytes of each annotated picture, as it was."""
        self.refused: Counter[str] = Counter()
        """Of what is left out, by reason."""
        for record in self._kept.read():
            self._require(record)
            self.done.add(str(record.get("image")))
            self.sizes[str(record.get("image"))] = int(record.get("bytes", -1))
        self.before = len(self.done)
        for record in self._failed.read():
            image = str(record.get("image"))
            if not anew and image not in self.done and self._by_the_same(record):
                self.done.add(image)
                self.refused[str(record.get("reason"))] += 1

    def name(self, path: str) -> str:
        """Of a picture: its path from the folder of the file, as the source ``images`` reads it."""
        return os.path.relpath(path, self.path.parent)

    def keep(self, record: Mapping[str, Any]) -> None:
        """An annotation."""
        self._kept.append({**record, **self._same})

    def fail(self, image: str, reason: str, detail: str) -> None:
        """A picture that could not be annotated."""
        self.refused[reason] += 1
        self._failed.append({"image": image, "reason": reason, "detail": detail[:2000], **self._same})

    def close(self) -> None:
        for lines in (self._kept, self._failed):
            lines.close()

    def _by_the_same(self, record: Mapping[str, Any]) -> bool:
        """What another model or question failed at is asked for again."""
        return all(record.get(what) == wanted for what, wanted in self._same.items())

    def _require(self, record: Mapping[str, Any]) -> None:
        for what, wanted in self._same.items():
            if record.get(what) != wanted:
                self.close()
                raise QiError(
                    f"{self.path}: holds annotations by another {what} ({record.get(what)!r}, now {wanted!r}); give "
                    "another file by -o, or ask as before to go on"
                )
