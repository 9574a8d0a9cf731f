"""What filters found, kept for eyes: in the folder ``data`` of a run, by as many processes as there are.

``judged-*.jsonl``: a row a sample, of each process the first ``ROWS`` of a filter. ``tally-*.json``: counts, of all.
``filters.json``: their bars. ``eyes/LABEL/kept`` and ``refused``: small pictures, those of the lowest hashes, so that
which ones are kept depends on the data alone and not on who came first.
"""

from __future__ import annotations

import base64
import io
import json
import math
import os
import socket
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO
from urllib.parse import quote

from qi_core.errors import QiError
from qi_core.files import write_whole
from qi_core.filter import Filter
from qi_core.filtering import Verdict, bar_of

if TYPE_CHECKING:
    from qi_core.data import Sample

ROWS = 50_000
"""Of a filter, that one process writes."""
EYES = 24
"""Pictures of a filter that are kept of those it let through, and as many of those it refused."""
SIDE = 160
"""Pixels of such a picture's longer side."""
CAPTION = 600
"""Characters of a caption that are kept with it."""
EVERY = 5.0
"""Seconds between two writings of the counts."""


class Keeper:
    """See ``qi_core.filtering.Keeper``. What cannot be written is given up and told by ``trouble``: a run does not end
    because of it."""

    def __init__(self, folder: Path, filters: Mapping[str, Filter], rows: int | None = None) -> None:
        """``folder``: the run's. ``rows``: how many are written, of each filter (``ROWS``)."""
        self.trouble = ""
        self._folder, self._lock = folder / "data", threading.Lock()
        self._most = ROWS if rows is None else rows
        self._name = f"{socket.gethostname()[:32]}-{os.getpid()}-{time.time_ns()}"
        self._came, self._written = Counter[str](), Counter[str]()
        self._refused: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._judged, self._kept, self._rows, self._told = 0, 0, 0, time.monotonic()
        self._shelves: dict[tuple[str, bool], Shelf] = {}
        self._unmade: set[bytes] = set()
        self._file: TextIO | None = None
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            tell_bars(self._folder / "filters.json", filters)
        except (OSError, QiError) as error:
            self._give_up(error)

    def __call__(self, sample: Sample, identity: bytes, verdict: Verdict) -> None:
        with self._lock:
            self._take(verdict, lambda: self._write(judgement(sample, identity, verdict), verdict, sample, identity))

    def unmade(self, key: str, verdict: Verdict) -> None:
        """See ``qi_core.filtering.Keeper``: a row without a picture."""
        identity = blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        with self._lock:
            if identity not in self._unmade:
                self._unmade.add(identity)
                told = {"key": key, "id": identity.hex(), **told_of(verdict)}
                self._take(verdict, lambda: self._write(told, verdict))

    def close(self) -> None:
        """Write what is not written yet."""
        with self._lock:
            if self.trouble:
                return
            try:
                self._tally()
                if self._file is not None:
                    self._file.close()
                    self._file = None
            except OSError as error:
                self._give_up(error)

    def report(self) -> dict[str, int]:
        """See ``Source.report``: what went wrong here."""
        return {self.trouble: 1} if self.trouble else {}

    def _take(self, verdict: Verdict, write: Callable[[], None]) -> None:
        """Count it and, unless that went wrong before, write it down."""
        self._judged += 1
        self._came.update(verdict.values.keys())
        if verdict.refused:
            self._refused[verdict.refused][verdict.reason] += 1
        else:
            self._kept += 1
        if self.trouble:
            return
        try:
            write()
            if time.monotonic() - self._told > EVERY:
                self._tally()
        except OSError as error:
            self._give_up(error)

    def _write(
        self, told: dict[str, Any], verdict: Verdict, sample: Sample | None = None, identity: bytes = b""
    ) -> None:
        if any(self._written[label] < self._most for label in verdict.values):
            self._written.update(verdict.values.keys())
            self._rows += 1
            if self._file is None:
                self._file = (self._folder / f"judged-{self._name}.jsonl").open("a", encoding="utf-8", buffering=1)
            self._file.write(json.dumps(told) + "\n")
        for label in verdict.values if sample is not None else ():
            refused = label in verdict.reasons
            shelf = self._shelves.get((label, refused))
            if shelf is None:
                shelf = Shelf(self._folder / "eyes" / quote(label, safe="") / ("refused" if refused else "kept"))
                self._shelves[label, refused] = shelf
            assert sample is not None
            shelf.offer(rank_of(label, identity), sample, verdict, label)

    def _tally(self) -> None:
        told = {
            "came": dict(self._came),
            "refused": {label: dict(counts) for label, counts in self._refused.items() if counts},
            "judged": self._judged,
            "kept": self._kept,
            "rows": self._rows,
        }
        path = self._folder / f"tally-{self._name}.json"
        beside = path.with_suffix(".part")
        beside.write_text(json.dumps(told), encoding="utf-8")
        beside.rename(path)
        self._told = time.monotonic()

    def _give_up(self, error: OSError | QiError) -> None:
        why = error.strerror if isinstance(error, OSError) else str(error)
        self.trouble = f"what filters found is not kept any more: {self._folder}: {why}"
        print(self.trouble, file=sys.stderr, flush=True)  # of a producer nobody asks for a report


class Shelf:
    """A bounded number of pictures, those of the lowest ranks, in a folder that several processes put theirs into."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._highest = folder, ""

    def offer(self, rank: str, sample: Sample, verdict: Verdict, label: str) -> None:
        """Put it there if it is of the lowest. ``rank``: a file's name."""
        if self._highest and rank >= self._highest:
            return
        there = self._ranks()
        if rank not in there and (len(there) < EYES or rank < there[-1]):
            beside = self._folder / f".{rank}.{os.getpid()}.part"
            beside.write_text(json.dumps(shown(sample, verdict, label)), encoding="utf-8")
            beside.rename(self._folder / f"{rank}.json")
            there = self._ranks()
            for beyond in there[EYES:]:  # whoever else does the same drops the same ones
                (self._folder / f"{beyond}.json").unlink(missing_ok=True)
        self._highest = there[EYES - 1] if len(there) >= EYES else ""

    def _ranks(self) -> list[str]:
        return sorted(name.removesuffix(".json") for name in os.listdir(self._folder) if name.endswith(".json"))


def judgement(sample: Sample, identity: bytes, verdict: Verdict) -> dict[str, Any]:
    """What a row holds: what a filter's funnel and its histogram are made of."""
    told = {"key": sample.key, "id": identity.hex(), **told_of(verdict)}
    return {**told, "category": sample.category} if sample.category else told


def told_of(verdict: Verdict) -> dict[str, Any]:
    """The part of a row that filters have said."""
    told: dict[str, Any] = {"values": finite(verdict.values)}
    return {**told, "reasons": dict(verdict.reasons)} if verdict.reasons else told


def shown(sample: Sample, verdict: Verdict, label: str) -> dict[str, Any]:
    """A picture for eyes with what is said of it."""
    from qi_core.measures import picture

    small = picture(sample.image)
    small.thumbnail((SIDE, SIDE))
    file = io.BytesIO()
    small.save(file, "JPEG", quality=85)
    return {
        "key": sample.key,
        "prompt": sample.prompt[:CAPTION],
        "category": sample.category,
        "value": finite(verdict.values)[label],
        "reason": verdict.reasons.get(label, ""),
        "jpeg": base64.b64encode(file.getvalue()).decode("ascii"),
    }


def finite(values: Mapping[str, float]) -> dict[str, float | None]:
    """As JSON has it: None for what is no number."""
    return {label: float(f"{value:.6g}") if math.isfinite(value) else None for label, value in values.items()}


def rank_of(label: str, identity: bytes) -> str:
    """The place of a sample in the order in which a filter's pictures are kept."""
    return blake2b(label.encode() + b"\0" + identity, digest_size=8).hexdigest()


def tell_bars(path: Path, filters: Mapping[str, Filter]) -> None:
    """Keep the bars of filters beside those that are told there already (of other stages of a curriculum)."""
    try:
        told = json.loads(path.read_bytes()) if path.exists() else {}
    except ValueError:
        told = {}
    new = {**(told if isinstance(told, dict) else {}), **bars(filters)}
    if new != told:
        write_whole(path, (json.dumps(new, indent=1) + "\n").encode())


def bars(filters: Mapping[str, Filter]) -> dict[str, list[float | None]]:
    """[least, most] by label; None for no limit."""
    return {
        label: [bound if math.isfinite(bound) else None for bound in bar_of(live)] for label, live in filters.items()
    }
