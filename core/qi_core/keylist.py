"""Lists of keys: what passes over a data set write, and filters and people read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path

from qi_core.errors import QiError

MOST = 2**20
"""Bytes of a line."""


def keys_of(path: Path) -> Iterator[str]:
    """A key a line: the line itself, or the "key" of a JSON object. Empty lines are none. Raises QiError."""
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(MOST + 1):
                number += 1
                if len(line) > MOST:
                    raise QiError(f"{path}:{number}: longer than {MOST} bytes; wanted a key a line; correct it")
                if number == 1:
                    line = line.removeprefix(b"\xef\xbb\xbf")  # as some editors save UTF-8
                if line.strip():
                    yield _key(line, f"{path}:{number}")
    except OSError as error:
        raise QiError(f"{path}: the list of keys cannot be read ({error.strerror}); correct its path") from error


def short(key: str) -> bytes:
    """Stands for a key: a list of a hundred million must fit into memory."""
    return blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()


def _key(line: bytes, where: str) -> str:
    try:
        if line.startswith(b"{"):
            key = json.loads(line)["key"]
            if isinstance(key, str):
                return key
            raise ValueError("'key' is no string")
        return line.decode("utf-8", "surrogatepass").rstrip("\r\n")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise QiError(f"{where}: {error}; wanted a key, or a JSON object with a 'key'; correct the line") from error
