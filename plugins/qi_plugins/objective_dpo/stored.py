"""Errors of a reference model that were measured beforehand: a file of JSON lines, one a pair and seed."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from attrs import asdict
from torch import Tensor

from qi_core import Dice, EncodedPairs, QiError, StoredError

SAME_TIME = 1e-5
"""Times that differ by less are the same one, drawn by another machine."""


def read(path: Path) -> Mapping[str, tuple[StoredError, ...]]:
    """By the pair's key. A last line that was cut off by a kill is passed over. Raises QiError if there is no file."""
    try:
        status = path.stat()
        return _read(path, status.st_mtime_ns, status.st_size)
    except OSError as error:
        raise QiError(
            f"{path}: errors of the reference cannot be read ({error.strerror}); have the evaluation reference-errors "
            "write them, with train.evaluate_first = true"
        ) from error


@lru_cache(maxsize=4)
def _read(path: Path, changed: int, size: int) -> Mapping[str, tuple[StoredError, ...]]:
    """``changed`` and ``size`` tell a file that was written anew."""
    found: defaultdict[str, list[StoredError]] = defaultdict(list)
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines[:-1], 1):
        try:
            record: dict[str, Any] = json.loads(line)
            found[str(record.pop("key"))].append(StoredError(**record))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise QiError(
                f"{path}:{number}: no error of a reference ({error}); delete the file, measure anew"
            ) from error
    return {key: tuple(errors) for key, errors in found.items()}


def line(key: str, error: StoredError) -> bytes:
    """As it stands in the file."""
    return json.dumps({"key": key, **asdict(error)}).encode() + b"\n"


def whole_lines(path: Path) -> None:
    """Cut a last line away that a kill left unfinished, so that the file can grow."""
    if path.exists():
        content = path.read_bytes()
        if len(content) > (end := content.rfind(b"\n") + 1):
            with path.open("r+b") as file:
                file.truncate(end)


def choose(batch: EncodedPairs, path: Path | None, dice: Dice) -> list[StoredError]:
    """One of each pair's, by chance: of those that it brought, else of those in the file. Raises QiError if it has
    none."""
    known = {} if path is None or all(batch.stored) else read(path)
    found: list[StoredError] = []
    for key, slot, own in zip(batch.keys, batch.slots, batch.stored, strict=True):
        errors = own or known.get(key, ())
        if not errors:
            raise QiError(
                f"pair {key!r}: no error of the reference is stored for it; measure this set of pairs with the "
                "evaluation reference-errors and name its file in objective.errors, or use another objective.reference"
            )
        found.append(errors[int(torch.randint(len(errors), (), generator=dice.roll(slot, "stored")))])
    return found


def generator(seed: int) -> torch.Generator:
    """What time and noise of a stored error were drawn from."""
    return torch.Generator().manual_seed(seed)


def told(chosen: Sequence[StoredError], t: Tensor) -> Tensor:
    """(2B,) the errors. Raises QiError if seeds give other times (``t``, (2B,)) than when they were measured."""
    for one, time in zip(chosen, t.tolist(), strict=False):
        if one.t is not None and abs(one.t - time) > SAME_TIME:
            raise QiError(
                f"errors of the reference were measured at t = {one.t:.4f}, which now is {time:.4f}: objective.times, "
                "mean, std or shift, or the size of pictures, are others; put them back, or measure anew"
            )
    return torch.tensor([one.winner for one in chosen] + [one.loser for one in chosen], device=t.device)
