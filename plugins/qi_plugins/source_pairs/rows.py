"""Rows of a JSONL -> couples. Pictures are not opened yet.

Annotators of the Qwen-Image report (section 4) mark the worst of the generations where there is a gold image, which may
then be the winner; else the best and the worst, or that all are unsatisfactory.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, TypeAlias

from attrs import frozen

from qi_core.blob import Blob
from qi_core.errors import QiError
from qi_core.jsonlines import records
from qi_core.pixels import Unusable
from qi_core.shuffling import number_of
from qi_core.skipped import Skip

PairsOf: TypeAlias = Literal["all", "adjacent", "ends"]
Gold: TypeAlias = Literal["if-missing", "also"]
Split: TypeAlias = Literal["train", "held-out", "all"]
UNSATISFACTORY = "all unsatisfactory"
TIE = "tie"


@frozen(kw_only=True)
class Couple:
    """A pair, by where its pictures are."""

    key: str
    prompt: str
    winner: Blob
    loser: Blob
    references: tuple[Blob, ...]


@frozen(kw_only=True)
class Reading:
    """How rows are read."""

    pairs_of: PairsOf
    gold: Gold
    split: Split
    held_out: float
    max_prompt: int
    max_line: int

    def find(self, path: str, skip: Skip) -> list[Couple]:
        """All couples of the split. Raises QiError if there is no such file."""
        place = Path(path).expanduser()
        files = [str(place)] if place.is_file() else sorted(glob.glob(str(place), recursive=True))
        if not files:
            raise QiError(
                f"source.path = {path!r}: nothing is there (looked from {os.getcwd()}); wanted a .jsonl of pairs, or a "
                "pattern for several; correct the path"
            )
        root = os.path.commonpath([os.path.dirname(os.path.abspath(file)) for file in files])
        found: list[Couple] = []
        for file in map(Path, files):
            if not file.is_file():
                raise QiError(f"source.path = {path!r}: {file} is no file; wanted a .jsonl of pairs, or several")
            name = os.path.relpath(file, root).replace(os.sep, "/")
            found += self._lines(file, f"{name}/" if len(files) > 1 else "", skip)
        return found

    def _lines(self, file: Path, prefix: str, skip: Skip) -> Iterator[Couple]:
        for number, record in records(file, prefix, self.max_line, skip):
            line = f"{prefix}line {number}"
            try:
                prompt = self._prompt(record)
                if self._chosen(prompt):
                    yield from self._couples(record, prompt, line, file.parent, skip)
            except Unusable as error:
                skip(line, error.reason, error.detail)

    def _chosen(self, prompt: str) -> bool:
        """By the prompt alone, so that no prompt stands on both sides, and the same ones in every run."""
        if self.split == "all":
            return True
        return (number_of(f"held-out/{prompt}") / 2**64 < self.held_out) == (self.split == "held-out")

    def _prompt(self, record: dict[str, Any]) -> str:
        prompt = record.get("prompt")
        if not isinstance(prompt, str) or not prompt.strip():
            raise Unusable("prompt missing", "" if prompt is None else repr(prompt)[:200])
        try:
            length = len(prompt.encode())  # JSON can hold half a surrogate pair, which is no text
        except UnicodeError as error:
            raise Unusable("prompt is not UTF-8", str(error)) from error
        if length > self.max_prompt:
            raise Unusable("prompt too long", f"{length} bytes, {self.max_prompt} allowed")
        return prompt.strip()

    def _couples(self, record: dict[str, Any], prompt: str, line: str, folder: Path, skip: Skip) -> Iterator[Couple]:
        verdict = record.get("verdict")
        if verdict in (UNSATISFACTORY, TIE):
            raise Unusable(verdict, "the verdict of the row")
        if verdict is not None:
            raise Unusable("verdict is unknown", f"{verdict!r:.200}; known: {UNSATISFACTORY!r}, {TIE!r}, or none")
        references = tuple(_blob(folder, item) for item in _paths(record.get("references") or [], "references"))
        for winner, loser in self._order(record, line, skip):
            if winner == loser:
                raise Unusable("winner and loser are one file", winner)
            yield Couple(
                key=f"{line}: {winner} > {loser}",
                prompt=prompt,
                winner=_blob(folder, winner),
                loser=_blob(folder, loser),
                references=references,
            )

    def _order(self, record: dict[str, Any], line: str, skip: Skip) -> Iterator[tuple[str, str]]:
        """(winner, loser) by path."""
        gold = _path(record, "gold")
        if record.get("ranking") is not None:
            yield from self._ranked(_ranks(record["ranking"]), gold, line, skip)
            return
        winner, loser = _path(record, "winner"), _path(record, "loser")
        if loser is None or (winner is None and gold is None):
            raise Unusable("row names no pair", f"keys: {', '.join(record)}"[:200])
        if winner is not None:
            yield winner, loser
        if gold is not None and (winner is None or (self.gold == "also" and gold != winner)):
            yield gold, loser

    def _ranked(
        self, ranks: Sequence[Sequence[str]], gold: str | None, line: str, skip: Skip
    ) -> Iterator[tuple[str, str]]:
        if not ranks or (sum(map(len, ranks)) == 1 and (gold is None or self.gold != "also")):
            raise Unusable("ranking names no pair", f"{ranks!r:.200}")
        for rank in ranks:
            for number, one in enumerate(rank):
                for other in rank[number + 1 :]:
                    skip(f"{line}: {one} = {other}", TIE, "one rank")
        for better, worse in _chosen_ranks(len(ranks), self.pairs_of):
            yield from ((one, other) for one in ranks[better] for other in ranks[worse])
        if gold is not None and self.gold == "also":
            yield from ((gold, other) for other in ranks[-1] if other != gold)


def _chosen_ranks(count: int, pairs_of: PairsOf) -> list[tuple[int, int]]:
    if pairs_of == "adjacent":
        return list(pairwise(range(count)))
    if pairs_of == "ends":
        return [(0, count - 1)] if count > 1 else []
    return [(better, worse) for better in range(count) for worse in range(better + 1, count)]


def _ranks(found: object) -> list[list[str]]:
    """Best first; pictures that are equally good stand in a list of their own."""
    if not isinstance(found, list) or not found:
        raise Unusable("ranking is no list of paths", f"{found!r:.200}")
    ranks = [_paths([rank] if isinstance(rank, str) else rank, "ranking") for rank in found]
    paths = [path for rank in ranks for path in rank]
    if len(set(paths)) < len(paths):
        raise Unusable("ranking names a picture twice", f"{found!r:.200}")
    return [rank for rank in ranks if rank]


def _paths(found: object, name: str) -> list[str]:
    if not isinstance(found, list) or not all(isinstance(item, str) and item for item in found):
        are = "is" if name == "ranking" else "are"
        raise Unusable(f"{name} {are} no list of paths", f"{found!r:.200}")
    return found


def _path(record: dict[str, Any], name: str) -> str | None:
    found = record.get(name)
    if found is not None and (not isinstance(found, str) or not found):
        raise Unusable(f"{name} is no path", f"{found!r:.200}")
    return found


def _blob(folder: Path, path: str) -> Blob:
    return Blob(os.path.join(folder, path))
