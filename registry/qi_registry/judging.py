"""A pass of a recipe's filters over all samples of its source, by several processes, into a manifest."""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
import shutil
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TextIO

from attrs import evolve, frozen

from qi_core.errors import QiError
from qi_core.keylist import short
from qi_registry.recipe import Recipe, to_toml
from qi_registry.specs import filters_of

if TYPE_CHECKING:
    from qi_core.filter import Filter
    from qi_core.pixels import Unusable
    from qi_core.place import Place
    from qi_core.source import Planned, Ticket

CHUNK = 16
"""Samples that a process judges at a time."""
AHEAD = 4
"""Chunks a process that are handed out ahead."""
KILLED = "ends the process that opens it"
"""Why a sample is lost that twice took its process with it, or held it up until it was ended."""
LONGEST = 900.0
"""Seconds until a process of which nothing comes is ended: many times what the slowest filters take."""


@frozen(kw_only=True)
class Work:
    """What a process needs to know. Strings and numbers alone."""

    recipe: str
    """TOML."""
    multiple: int
    folder: str
    """Where it keeps what a source writes, and pictures for eyes."""
    eyes: str


@frozen(kw_only=True)
class Progress:
    """How far a pass is."""

    done: int
    """Samples, those of the manifest that was there included."""
    refused: int
    """By one filter or more."""
    lost: int
    """That cannot be used."""


def judge_all(
    recipe: Recipe,
    output: Path,
    *,
    processes: int,
    most: int = 0,
    tell: Callable[[Progress], None] = lambda _: None,
) -> Progress:
    """Write, or go on with, the manifest of a recipe. ``most``: samples; 0: until the source gives nothing new.

    Raises QiError for a source whose samples cannot be judged one by one.
    """
    from qi_core import manifest

    with TemporaryDirectory(prefix="qi-data-filter-") as folder:
        source, filters, multiple = _parts(recipe, Path(folder))
        head = manifest.Head(made_by=_made_by(recipe), bars=_bars(filters))
        eyes = Path(f"{output}.eyes")
        work = Work(recipe=to_toml(recipe), multiple=multiple, folder=folder, eyes=str(eyes))
        with _opened(output) as file:
            there = manifest.begin(output, head)
            if not there.keys:  # of a manifest that is gone, other filters may have chosen them
                shutil.rmtree(eyes / "data", ignore_errors=True)
            done, refused, lost = len(there.keys), there.refused, there.lost
            for rows in _judged(work, processes, _chunks(new_tickets(source, there.keys, most))):
                file.writelines(row + "\n" for row in rows)
                file.flush()
                done += len(rows)
                refused += sum('"reasons": {' in row for row in rows)
                lost += sum('"lost": "' in row for row in rows)
                tell(Progress(done=done, refused=refused, lost=lost))
            for key, error in _passed_over(Path(folder) / "skipped.jsonl"):
                if key not in there.keys:
                    file.write(manifest.lost_row(key, error) + "\n")
                    done, lost = done + 1, lost + 1
            file.flush()
            os.fsync(file.fileno())
    return Progress(done=done, refused=refused, lost=lost)


@contextmanager
def _opened(output: Path) -> Generator[TextIO]:
    """To append to, by one process at a time. Raises QiError where another has it, or it cannot be written."""
    try:
        file = output.open("a", encoding="utf-8")
    except OSError as error:
        raise QiError(f"{output}: cannot be written ({error.strerror}); give another --output") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise QiError(
                f"{output}: another process is writing to it; wait for it, or give another --output"
            ) from None
        yield file


def new_tickets(source: Planned, seen: set[str], most: int) -> Iterator[tuple[Ticket, str]]:
    """Tickets with their keys, each key once and none that was seen, until nothing new comes: that is, until as many
    tickets as there are keys (1000 at least) have brought none. Parts of a mixture come round at their own pace."""
    known, count, barren = {short(key) for key in seen}, len(seen), 0
    while not most or count < most:
        for ticket in source.plan(256):
            name = source.called(ticket)
            if short(name) in known:
                barren += 1
                if barren >= max(len(known), 1000):
                    return
                continue
            known.add(short(name))
            barren = 0
            count += 1
            yield ticket, name
            if count == most:
                return


def _parts(recipe: Recipe, folder: Path) -> tuple[Planned, Mapping[str, Filter], int]:
    """Raises QiError where a part is not there, before any process is started."""
    from qi_core.data import Samples
    from qi_core.source import Planned

    place = _place(recipe, folder)
    multiple = recipe.autoencoder.build(place).scale
    live = _source(recipe, evolve(place, multiple=multiple))
    if not isinstance(live, Planned) or live.gives is not Samples:
        gives = getattr(recipe.source, "gives", type(live)).__name__
        raise QiError(f"source: gives {gives}, made when they are asked for; wanted a source of Samples that plans")
    return live, filters_of(recipe, evolve(place, multiple=multiple)), multiple


def _source(recipe: Recipe, place: Place) -> Any:
    from qi_registry.specs import source

    return source(evolve(recipe, data=evolve(recipe.data, filters=())), place)


def _passed_over(path: Path) -> Iterator[tuple[str, Unusable]]:
    """What the source has left out when it looked for its samples: it never plans them."""
    from qi_core.pixels import Unusable

    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            told = json.loads(line)
            yield told["key"], Unusable(told["reason"], told["detail"])


def _place(recipe: Recipe, folder: Path) -> Place:
    from qi_core.place import Place
    from qi_registry.assemble import alone

    strategy = alone(recipe.parallel).build()
    return Place(device=strategy.device, dtype=strategy.dtype, seed=recipe.train.seed, folder=folder, even=True)


def _made_by(recipe: Recipe) -> str:
    from qi_registry.specs import digest

    return digest(recipe)


def _bars(filters: Mapping[str, Filter]) -> dict[str, list[float | None]]:
    from qi_core.keeping import bars

    return bars(filters)


def _chunks(tickets: Iterator[tuple[Ticket, str]]) -> Iterator[list[tuple[Ticket, str]]]:
    chunk: list[tuple[Ticket, str]] = []
    for each in tickets:
        chunk.append(each)
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _judged(work: Work, processes: int, chunks: Iterator[list[tuple[Ticket, str]]]) -> Iterator[list[str]]:
    """Rows of each chunk in their order, whoever is done first. What kills its process is lost; the pass goes on."""
    crew = Crew(work, processes)
    try:
        waiting: deque[tuple[list[tuple[Ticket, str]], Future[list[str]]]] = deque()
        for chunk in chunks:
            waiting.append((chunk, crew.submit(chunk)))
            if len(waiting) >= AHEAD * processes:
                yield crew.result(*waiting.popleft())
        while waiting:
            yield crew.result(*waiting.popleft())
    finally:
        crew.close()


class Crew:
    """Processes that judge. When one is killed all are started anew, and what was under way is judged again."""

    def __init__(self, work: Work, processes: int) -> None:
        self._work, self._processes = work, processes
        self._pool = self._started(processes)

    def submit(self, chunk: Sequence[tuple[Ticket, str]]) -> Future[list[str]]:
        """Have it judged."""
        tickets = [ticket for ticket, _ in chunk]
        try:
            return self._pool.submit(_judge, tickets)
        except BrokenProcessPool:
            self._pool.shutdown(wait=False)
            self._pool = self._started(self._processes)
            return self._pool.submit(_judge, tickets)

    def result(self, chunk: Sequence[tuple[Ticket, str]], future: Future[list[str]]) -> list[str]:
        """The rows, whatever it takes to get them. Raises what the source or a filter raises."""
        try:
            return _waited(future)
        except BrokenProcessPool:  # by this chunk or by one beside it
            try:
                return _waited(self.submit(chunk))
            except BrokenProcessPool:
                return self._one_by_one(chunk)

    def close(self) -> None:
        """End them."""
        self._pool.shutdown(cancel_futures=True)

    def _one_by_one(self, chunk: Sequence[tuple[Ticket, str]]) -> list[str]:
        """In a process of their own, so that it is known whose fault it is."""
        from qi_core.manifest import lost_row
        from qi_core.pixels import Unusable

        rows: list[str] = []
        pool = self._started(1)
        for ticket, key in chunk:
            for _ in range(2):
                try:
                    rows += _waited(pool.submit(_judge, [ticket]))
                    break
                except BrokenProcessPool:
                    pool.shutdown()
                    pool = self._started(1)
            else:
                rows.append(lost_row(key, Unusable(KILLED)))
        pool.shutdown()
        return rows

    def _started(self, processes: int) -> ProcessPoolExecutor:
        # Spawned, not forked: torch's threads do not survive a fork.
        return ProcessPoolExecutor(
            processes, mp_context=multiprocessing.get_context("spawn"), initializer=_begin, initargs=(self._work,)
        )


def _waited(future: Future[list[str]]) -> list[str]:
    """Raises BrokenProcessPool where a process ended, or had to be ended."""
    try:
        return future.result(timeout=LONGEST)
    except TimeoutError:
        if future.done():  # by what the source or a filter raised
            raise
        for process in multiprocessing.active_children():
            process.kill()
        raise BrokenProcessPool(f"nothing came in {LONGEST:g} s") from None


# --- in a process ------------------------------------------------------------------------------------------------


class _Judge:
    """The source and the filters of one process."""

    def __init__(self, work: Work) -> None:
        from qi_core.filtering import Filters
        from qi_core.keeping import Keeper
        from qi_registry.reader import loads

        recipe = loads(work.recipe, where="recipe.toml")
        folder = Path(work.folder) / f"process-{os.getpid()}"  # what the source writes there, the parent's has too
        folder.mkdir(exist_ok=True)
        place = evolve(_place(recipe, folder), multiple=work.multiple)
        live = filters_of(recipe, place)
        self.source: Planned = _source(recipe, place)
        self.filters = Filters(filters=live)
        self.keeper = Keeper(Path(work.eyes), live, rows=0)

    def row(self, ticket: Ticket) -> str:
        from qi_core.filtering import identity_of
        from qi_core.manifest import lost_row, row_of
        from qi_core.pixels import Unusable

        try:
            sample = self.source.make(ticket)
        except Unusable as error:
            return lost_row(self.source.called(ticket), error)
        verdict = self.filters.judge(sample, whole=True)
        self.keeper(sample, identity_of(sample), verdict)
        return row_of(sample, verdict, perceptual_hash(sample.image))


_own: list[_Judge | QiError] = []


def _begin(work: Work) -> None:
    import torch

    torch.set_num_threads(1)
    try:
        _own.append(_Judge(work))
    except QiError as error:  # an initializer that raises would break the pool without a word
        _own.append(error)


def _judge(tickets: Sequence[Ticket]) -> list[str]:
    (own,) = _own
    if isinstance(own, QiError):
        raise own
    return [own.row(tuple(ticket)) for ticket in tickets]


def perceptual_hash(image: Any) -> str:
    """64 bits that near-duplicates have nearly in common (pHash: the signs of the lowest frequencies of luma), in
    hexadecimal; empty where the library is not installed."""
    from importlib.util import find_spec

    if find_spec("imagehash") is None:
        return ""
    import imagehash

    from qi_core.measures import picture

    return str(imagehash.phash(picture(image)))
