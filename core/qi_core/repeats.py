"""How often each sample of a set comes in an epoch: weights from a file, dealt out exactly.

A sample of weight w (a whole number of millionths) and phase p has come floor(w e + p) times before epoch e, so any
epoch can be reached at once, and over n epochs it comes n w times, rounded up or down. Phases of the m samples of one
weight are (j + o) / m for j = 0 ... m - 1 and an o in [0, 1). Since floor(x + j / m), added up over j, is floor(m x)
(Hermite's identity), all of them together have then come floor(m w e + o) times, give or take those before the first
epoch: exact too, for each weight and after every epoch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from attrs import frozen

from qi_core.blob import stamp_of
from qi_core.errors import QiError
from qi_core.keylist import MOST, short
from qi_core.shuffling import number_of, permutation

Whole: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]

UNIT = 10**6
"""Of weights: 1."""
LEAST, LARGEST = 0.001, 1000.0
"""Weights but for 0, which leaves a sample out."""
_HALF = b"\\ud"
"""How JSON begins the half of a surrogate pair, as Python writes it."""


@frozen(kw_only=True, eq=False)
class Weights:
    """What a file says, by key."""

    path: str
    example: str
    """Its first key."""
    names: np.ndarray[Any, np.dtype[np.uint64]]
    """Short for keys, sorted."""
    values: Whole
    """In millionths."""

    @staticmethod
    def kept(path: str) -> Weights:
        """The same as ``read``, which is not done again while the file lies there as it did: a change of the data
        builds a source anew."""
        try:
            status = Path(path).expanduser().stat()
        except OSError:
            return Weights.read(path)  # which tells
        return _kept(path, stamp_of(status))

    @staticmethod
    def read(path: str) -> Weights:
        """A JSON object a line, with "key" and "weight". Raises QiError."""
        import msgspec

        class Line(msgspec.Struct):
            key: str
            weight: float

        decode = msgspec.json.Decoder(Line).decode
        names, values, example = list[bytes](), list[int](), ""
        lines = list[int]()
        try:
            with Path(path).expanduser().open("rb") as file:
                number = 0
                while line := file.readline(MOST + 1):
                    number += 1
                    if number == 1:
                        line = line.removeprefix(b"\xef\xbb\xbf")  # as some editors save UTF-8
                    if not line.strip():
                        continue
                    try:
                        if len(line) > MOST:
                            raise ValueError(f"longer than {MOST} bytes")
                        # The name of a file may be no text: half of a surrogate pair, which msgspec takes for no JSON.
                        told = msgspec.convert(json.loads(line), Line) if _HALF in line else decode(line)
                        if told.weight and not LEAST <= told.weight <= LARGEST:
                            raise ValueError(f"'weight' is {told.weight:g}")
                    except (ValueError, RecursionError) as error:
                        raise QiError(
                            f"{path}:{number}: {error}; wanted a JSON object with a 'key' and a 'weight' of 0, or "
                            f"{LEAST:g} to {LARGEST:g}; correct the line"
                        ) from error
                    names.append(short(told.key))
                    values.append(round(told.weight * UNIT))
                    lines.append(number)
                    example = example or told.key
        except OSError as error:
            raise QiError(f"{path}: weights cannot be read ({error.strerror}); correct its path") from error
        if not names:
            raise QiError(f"{path}: no weights in it; wanted what qi data resample writes; write it again")
        found = np.frombuffer(b"".join(names), "<u8").astype(np.uint64)
        order = np.argsort(found, kind="stable")
        if len(twins := np.flatnonzero(found[order][1:] == found[order][:-1])):
            first, again = (lines[order[twins[0] + step]] for step in (0, 1))
            raise QiError(f"{path}:{again}: the key of line {first} again; wanted one weight a key; remove a line")
        return Weights(path=path, example=example, names=found[order], values=np.array(values, np.int64)[order])

    @cached_property
    def identity(self) -> dict[str, str]:
        """For positions that were counted by them: asked for with each step's."""
        return _identity(self.path, self.names, self.values)

    def of(self, keys: Iterable[str]) -> tuple[Whole, int]:
        """(N,) weights of these keys, 1 for those that are not listed, and how many are."""
        wanted = np.frombuffer(b"".join(short(key) for key in keys), "<u8").astype(np.uint64)
        at = np.minimum(np.searchsorted(self.names, wanted), len(self.names) - 1)
        listed = self.names[at] == wanted
        return np.where(listed, self.values[at], UNIT), int(listed.sum())

    def of_all(self, keys: Sequence[str], where: str) -> Whole:
        """(N,) weights of all samples of a set. Raises QiError if none of them is listed, or nothing is left."""
        found, listed = self.of(keys)
        if not listed:
            raise QiError(self.of_others(keys[0], where))
        if not found.any():
            raise QiError(f"source.weights_file = {self.path!r}: all of {where} weigh 0; give some of them more")
        return found

    def of_others(self, key: str, where: str) -> str:
        """What is said where they are of none of the samples there are. ``key``: one of these."""
        return (
            f"source.weights_file = {self.path!r}: none of its {len(self.names)} keys (such as {self.example!r}) is "
            f"one of {where} (such as {key!r}); wanted weights of these samples (qi data resample; of a mixture, each "
            "part's: --part)"
        )


class Repeats:
    """The epochs of a set whose samples have weights."""

    def __init__(self, weights: Whole, seed: int, path: str) -> None:
        """``weights``: (N,), in millionths, not all 0. ``path``: where they were said; kept with positions."""
        self.weights, self._phases = weights, _phases(weights, seed)
        self.among = np.flatnonzero(weights)
        """Numbers of the samples that come at all."""
        self.identity = _identity(path, weights)

    def made_of(self) -> dict[str, str]:
        """See ``qi_core.source.OfFiles``."""
        return told_as(self.identity)

    def epoch(self, epoch: int) -> Pass:
        """What comes in it."""
        before = (self.weights * epoch + self._phases) // UNIT
        counts = (self.weights * (epoch + 1) + self._phases) // UNIT - before
        return Pass(before=before, counts=counts, ends=np.cumsum(counts))


@frozen(kw_only=True, eq=False)
class Pass:
    """The samples of an epoch, each as often as it comes."""

    before: Whole
    counts: Whole
    ends: Whole

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, slot: int) -> tuple[int, int]:
        """(how often the sample came before, its number): the former is the epoch for who weighs 1, and no two of a
        sample's turns are alike, so that each has a crop and a caption of its own."""
        number = int(np.searchsorted(self.ends, slot, side="right"))
        copy = slot - int(self.ends[number] - self.counts[number])
        return int(self.before[number]) + copy, number


def _phases(weights: Whole, seed: int) -> Whole:
    """In millionths: who of one weight comes early is decided by the seed."""
    order = np.lexsort((permutation(number_of(f"{seed}/phases"), 0, len(weights)), weights))
    kinds, first, many = np.unique(weights[order], return_index=True, return_counts=True)
    starts = np.array([number_of(f"{seed}/phase of {kind}") % UNIT for kind in kinds.tolist()], np.int64)
    which = np.repeat(np.arange(len(kinds)), many)
    nth = np.arange(len(weights), dtype=np.int64) - first[which]
    phases = np.empty(len(weights), np.int64)
    phases[order] = (nth * UNIT + starts[which]) // many[which]
    return phases


def told_as(identity: Mapping[str, str]) -> dict[str, str]:
    """As sources tell of what their samples are made."""
    return {f"weights_file = {identity['path']!r}": identity["digest"]}


def _identity(path: str, *parts: np.ndarray[Any, Any]) -> dict[str, str]:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(part.astype(part.dtype.newbyteorder("<")).tobytes())
    return {"path": path, "digest": digest.hexdigest()}


@lru_cache(maxsize=2)
def _kept(path: str, stamp: int) -> Weights:
    return Weights.read(path)
