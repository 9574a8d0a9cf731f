"""Files of JSON objects, one a line, that somebody else wrote."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from qi_core.errors import QiError
from qi_core.pixels import Unusable
from qi_core.skipped import Skip


def records(path: Path, prefix: str, most: int, skip: Skip) -> Iterator[tuple[int, dict[str, Any]]]:
    """Objects with the numbers of their lines, from 1; what is none is skipped. Empty lines are none of either.

    ``prefix`` stands before the keys that skipped lines are told by. ``most``: bytes of a line. Raises QiError if the
    file cannot be read.
    """
    try:
        with path.open("rb") as file:
            for number, line in _bounded_lines(file, most):
                if line is None:
                    skip(f"{prefix}line {number}", "line too long", f"more than {most} bytes")
                elif line.strip():
                    try:
                        yield number, _object(line)
                    except Unusable as error:
                        skip(f"{prefix}line {number}", error.reason, error.detail)
    except OSError as error:
        raise QiError(f"source.path = {str(path)!r}: cannot be read ({error.strerror}); check the file") from error


def _object(line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:  # RecursionError: [[[[...
        raise Unusable("line is no JSON object", str(error)) from error
    if not isinstance(record, dict):
        raise Unusable("line is no JSON object", f"a {type(record).__name__}")
    return record


def _bounded_lines(file: BinaryIO, most: int) -> Iterator[tuple[int, bytes | None]]:
    """Lines with their numbers from 1; None for one that is longer than ``most``, which is never held in memory."""
    number, too_long = 1, False
    while piece := file.readline(most + 1):
        ends = piece.endswith(b"\n")
        too_long = too_long or (len(piece) > most and not ends)
        if ends or len(piece) <= most:
            yield number, None if too_long else piece
            number, too_long = number + 1, False
    if too_long:
        yield number, None
