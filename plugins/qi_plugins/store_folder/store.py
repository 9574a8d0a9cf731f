"""The store "folder" at work.

A checkpoint is written into a folder of another name, each file flushed to the disk, the manifest last; then the
folder is renamed. So a folder called ``step-...`` was whole when it got its name, whatever killed the process.

Of several ranks each writes files of its own; rank 0 makes the folder, and names it when all have told that they are
through. What hinders one of them, all are told.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, TypeVar

from attrs import frozen

from qi_core import Checkpoint, QiError, Team
from qi_core.errors import LostError
from qi_core.files import sync_folder
from qi_core.team import Alone
from qi_core.tensorfiles import Stamp, StoredTensors, write
from qi_plugins.store_folder.manifest import MANIFEST, Manifest, damages
from qi_plugins.store_folder.outgoing import File, Room, outgoing

if TYPE_CHECKING:
    from qi_plugins.store_folder.component import Folder

T = TypeVar("T")
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NAME = re.compile(r"step-(\d+)(\.old)?")
GRACE = 60.0
"""Seconds that several ranks have for the rest of a save when their run has failed. One alone has all it needs."""


@frozen(kw_only=True, eq=False)
class Work:
    """A checkpoint that is being saved, as one rank writes it."""

    step: int
    files: Sequence[File]
    beside: Mapping[str, bytes]
    """Name -> content of the small files, which rank 0 writes."""


class FolderStore:
    """See ``qi_core.store.Store``."""

    def __init__(self, folder: Path, settings: Folder, team: Team | None = None) -> None:
        self._folder = folder
        self._settings = settings
        self._team: Team = team or Alone()
        self._background = settings.background and team is not None  # without a team nobody trains meanwhile
        self._room = Room()
        self._line: Team | None = None
        self._thread: Thread | None = None
        self._failed: Exception | None = None
        self._began = 0.0
        self._took: float | None = None

    def save(self, checkpoint: Checkpoint) -> Path:
        self.wait()
        self._began, self._took = time.perf_counter(), None
        files = outgoing(checkpoint, self._team.rank, self._team.ranks, self._settings.shard_bytes)
        state = json.dumps(dict(checkpoint.state), indent=1).encode() + b"\n"
        beside = {"state.json": state, "recipe.toml": checkpoint.recipe.encode()}
        if self._background:
            work = Work(step=checkpoint.step, files=self._room.copied(files), beside=beside)
            self._line = self._line or self._team.apart()
            # It must not outlive a process whose other ranks are gone; ``close`` waits for it.
            self._thread = Thread(target=self._later, args=(work, self._line), name="qi-save", daemon=True)
            self._thread.start()
        else:
            self._write(Work(step=checkpoint.step, files=files, beside=beside), self._team)
        return self._path(checkpoint.step)

    def took(self) -> float | None:
        return self._took

    def wait(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._failed is not None:
            failed, self._failed = self._failed, None
            raise failed

    def close(self) -> None:
        """However the run has ended: let a save that is under way come to its end."""
        if self._thread is not None:
            self._thread.join(None if self._team.ranks == 1 else GRACE)

    def latest(self) -> int | None:
        return max(self._whole(), default=None)

    def load(self, step: int | None = None) -> Checkpoint:
        """Every file is compared with its checksum first, by one of the ranks."""
        whole = self._whole()
        if not whole:
            raise QiError(f"{self._folder}: there is no whole checkpoint; one was wanted; start a run here first")
        step = max(whole) if step is None else step
        if step not in whole:
            there = ", ".join(map(str, sorted(whole)))
            raise QiError(f"{self._folder}: there is no whole checkpoint of step {step}; whole are those of {there}")
        path = whole[step]
        manifest = Manifest.read(path)
        mine = list(manifest.files)[self._team.rank :: self._team.ranks]
        found = self._team.gather(next(damages(path, manifest, mine), None))
        if damage := next(filter(None, found), None):
            raise QiError(f"{damage}; {self._team.send(self._advice(path, step, whole))}")
        return Checkpoint(
            step=manifest.step,
            tensors={group: StoredTensors([path / name for name in names]) for group, names in manifest.groups.items()},
            state=json.loads((path / "state.json").read_text(encoding="utf-8")),
            recipe=(path / "recipe.toml").read_text(encoding="utf-8"),
        )

    def _path(self, step: int) -> Path:
        return self._folder / f"step-{step:08d}"

    def _later(self, work: Work, team: Team) -> None:
        try:
            self._write(work, team)
        except Exception as error:
            self._failed = error

    def _write(self, work: Work, team: Team) -> None:
        """All of a checkpoint, or an error on every rank."""
        try:
            with ExitStack() as stack:
                folder = self._first(team, lambda: stack.enter_context(self._begun(work.step)))
                with self._held(folder, team):
                    found = self._all(team, lambda: _fill(folder, work.files))
                self._first(team, lambda: self._finish(folder, work, found))
        except RuntimeError as error:  # of the team: what goes wrong in writing is told by then
            if team.ranks == 1:
                raise
            raise LostError(
                f"{self._folder}: a rank was lost while the checkpoint of step {work.step} was written "
                f"({str(error).partition(chr(10))[0]}); older checkpoints are whole; go on from there"
            ) from error
        self._took = time.perf_counter() - self._began

    def _first(self, team: Team, act: Callable[[], T]) -> T:
        """What rank 0 does, and gets from it; all get it, or its error."""
        return self._agreed(team.send(self._try(act) if team.rank == 0 else None))

    def _all(self, team: Team, act: Callable[[], T]) -> list[T]:
        """What each rank does, and gets from it; all get all of it, or the first error."""
        who = f"rank {team.rank} of {team.ranks}: " if team.ranks > 1 else ""
        return [self._agreed(each) for each in team.gather(self._try(act, who))]

    def _try(self, act: Callable[[], T], who: str = "") -> tuple[list[T], str]:
        """What it gives, or what went wrong."""
        try:
            return [act()], ""
        except (OSError, QiError) as error:
            return [], self._told(error, who)
        except Exception as error:
            if not who:
                raise
            return [], self._told(error, who)  # the others wait to hear of it

    def _agreed(self, told: tuple[list[T], str] | None) -> T:
        assert told is not None
        if told[1]:
            raise QiError(told[1])
        return told[0][0]

    def _finish(self, folder: Path, work: Work, found: Sequence[Mapping[str, Mapping[str, Stamp]]]) -> None:
        """Rank 0, once all files of tensors are on the disk: the rest, and the name."""
        groups: dict[str, list[str]] = {}
        files: dict[str, Stamp] = {}
        for rank in found:
            for group, stamps in rank.items():
                groups.setdefault(group, []).extend(stamps)
                files |= stamps
        files |= {name: write(folder / name, iter([content])) for name, content in work.beside.items()}
        manifest = Manifest(step=work.step, groups={group: tuple(each) for group, each in groups.items()}, files=files)
        write(folder / MANIFEST, iter([manifest.text().encode()]))
        for each in (*(folder / group for group in groups), folder):
            sync_folder(each)
        final = self._path(work.step)
        if final.exists():  # an older run of the same steps: it keeps its second name until the new one is there
            self._drop(final.with_name(final.name + ".old"))
            final.rename(final.with_name(final.name + ".old"))
        folder.rename(final)
        sync_folder(self._folder)
        self._prune(work.step)

    def _whole(self) -> dict[int, Path]:
        """Step -> folder. Cheap: a manifest that can be read is the last thing that a writer writes."""
        if not self._folder.is_dir():
            return {}
        found: dict[int, Path] = {}
        for path in sorted(self._folder.iterdir()):  # "step-7" comes before "step-7.old"
            match = NAME.fullmatch(path.name)
            if match and (path / MANIFEST).is_file():
                with suppress(ValueError):
                    json.loads((path / MANIFEST).read_text(encoding="utf-8"))
                    found.setdefault(int(match[1]), path)
        return found

    def _advice(self, path: Path, step: int, whole: Mapping[int, Path]) -> str:
        """What to do about a damaged checkpoint."""
        if self._team.rank:
            return ""
        for other in sorted(whole, reverse=True):
            if other != step and next(damages(whole[other], Manifest.read(whole[other])), None) is None:
                return f"the checkpoint of step {other} is whole: remove {path} to go on from there"
        return f"no other checkpoint here is whole: bring back a copy of {path}, or start anew"

    @contextmanager
    def _begun(self, step: int) -> Iterator[Path]:
        """Rank 0: a folder to write into, removed if it wasn't renamed."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._sweep()
        beside = self._folder / f".writing-{self._path(step).name}-{os.getpid()}"
        beside.mkdir()
        try:
            with self._locked(beside):
                yield beside
        finally:
            shutil.rmtree(beside, ignore_errors=True)

    @contextmanager
    def _held(self, folder: Path, team: Team) -> Iterator[None]:
        """The other ranks hold the folder too: should rank 0 die, nobody sweeps it away below their hands."""
        if team.rank == 0 or not folder.is_dir():  # what isn't there is told when it is to be written into
            yield
            return
        with self._locked(folder):
            yield

    @contextmanager
    def _locked(self, folder: Path) -> Iterator[None]:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            with suppress(OSError):  # a disk without locks
                fcntl.flock(descriptor, fcntl.LOCK_SH)
            yield
        finally:
            os.close(descriptor)

    def _sweep(self) -> None:
        """Remove what dead writers left. The system lets go of a lock when its process dies, however it dies."""
        for path in self._folder.glob(".writing-*"):
            descriptor = os.open(path, os.O_RDONLY)
            try:
                if _is_free(descriptor):
                    shutil.rmtree(path)
            finally:
                os.close(descriptor)
        for path in self._folder.glob(".gone-*"):
            shutil.rmtree(path)

    def _prune(self, saved: int) -> None:
        """Remove old checkpoints; never the one that was saved just now, even if there are later steps."""
        for path in self._folder.glob("step-*.old"):
            if path.with_name(path.name.removesuffix(".old")).exists():
                self._drop(path)
        others = sorted(self._whole().keys() - {saved}, reverse=True)
        for step in others[self._settings.keep - 1 :] if self._settings.keep else ():
            self._drop(self._whole()[step])

    def _drop(self, path: Path) -> None:
        """Remove a checkpoint: first its name, so that half of it is never taken for one."""
        if path.exists():
            gone = path.with_name(f".gone-{path.name}")
            path.rename(gone)
            shutil.rmtree(gone)

    def _told(self, error: Exception, who: str = "") -> str:
        """An error in the user's words."""
        if isinstance(error, QiError):
            return f"{who}{error}"
        advice = "older checkpoints are whole; see to the folder's permissions and disk"
        if isinstance(error, OSError) and error.errno in FULL:
            advice = (
                "the disk is full; older checkpoints are whole; make room or set store.keep below "
                f"{self._settings.keep}"
            )
        told = error if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
        return f"{who}{self._folder}: the checkpoint was not saved ({told}); {advice}"


def _is_free(descriptor: int) -> bool:
    """Whether no living process has locked it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a disk without locks; the run's own lock keeps other runs away
        return True
    return True


def _fill(folder: Path, files: Sequence[File]) -> dict[str, dict[str, Stamp]]:
    """Write one rank's files: group -> path in the folder -> how it looks."""
    if not folder.is_dir():
        raise QiError(f"{folder}: rank 0 made it, but it is not here; put the run on a disk that all ranks share")
    found: dict[str, dict[str, Stamp]] = {}
    for file in files:
        (folder / file.group).mkdir(exist_ok=True)
        found.setdefault(file.group, {})[file.path] = write(folder / file.path, file.content())
    return found
