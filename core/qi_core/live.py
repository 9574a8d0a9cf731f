"""Changes to a run that is going on: asked for from outside, taken at a step boundary, kept, replayed.

``control/`` in the run's folder is the channel: ``qi set`` puts a request there (written beside, then renamed), the
run answers beside it. ``events.jsonl`` is the ledger: what was changed, and after how many steps.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

from attrs import frozen

from qi_core.errors import QiError
from qi_core.files import is_locked, write_whole
from qi_core.tracker import Change

LEDGER = "events.jsonl"
PAUSE = 0.02
"""Seconds between two looks for an answer."""
GRACE = 10.0
"""Seconds beyond its patience that an asker waits once the run has taken the request."""


@frozen
class Request:
    """A change that somebody waits for."""

    setting: str
    """A line of TOML."""
    path: Path
    """Where the request stands since the run took it."""

    def answer(self, message: str, step: int | None) -> None:
        """``step``: when it takes effect; None: it was refused, the message says why."""
        reply = json.dumps({"message": message, "step": step})
        write_whole(self.path.with_suffix(".reply"), reply.encode())
        self.path.unlink(missing_ok=True)


class Channel:
    """The run's side and the asker's side of ``control/``."""

    def __init__(self, run_folder: Path) -> None:
        self.folder = run_folder / "control"

    def open(self) -> None:
        """The run's side: begin; what was asked of a run that has ended is not obeyed later."""
        self.folder.mkdir(exist_ok=True)
        for leftover in self.folder.iterdir():
            leftover.unlink()

    def waiting(self) -> bool:
        """Whether something was asked since."""
        return any(name.endswith(".set") for name in self._names())

    def requests(self) -> Iterator[Request]:
        """What was asked since the last call, oldest first."""
        for name in sorted(name for name in self._names() if name.endswith(".set")):
            taken = (self.folder / name).with_suffix(".taken")
            try:
                (self.folder / name).rename(taken)
            except FileNotFoundError:  # its asker has lost patience
                continue
            yield Request(setting=taken.read_text(encoding="utf-8"), path=taken)

    def _names(self) -> list[str]:
        try:
            return os.listdir(self.folder)
        except FileNotFoundError:  # somebody tidied up; an asker makes it again
            return []

    def ask(self, setting: str, patience: float) -> int:
        """The asker's side: the step at which the change takes effect. Raises QiError if refused or unanswered."""
        run = self.folder.parent
        self.folder.mkdir(exist_ok=True)  # the run may hold its folder and not have opened the channel yet
        path = self.folder / f"{time.time_ns()}-{os.getpid()}.set"
        write_whole(path, setting.encode())
        reply = path.with_suffix(".reply")
        deadline = time.monotonic() + patience
        while not reply.exists():
            alive, late = is_locked(run), time.monotonic() - deadline
            why = f"the run did not answer within {patience:g} s" if alive else "the run has ended"
            if (not alive or late > 0) and _removed(path):
                raise QiError(f"{run}: {why}; nothing was changed")
            if (not alive or late > GRACE) and not reply.exists():
                raise QiError(f"{run}: {why} after it took the change; {LEDGER} there tells whether it is in effect")
            time.sleep(PAUSE)
        told = json.loads(reply.read_text())
        reply.unlink()
        if told["step"] is None:
            raise QiError(told["message"])
        return int(told["step"])


def _removed(path: Path) -> bool:
    """Take a request back; False if it isn't there any more."""
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    return True


class Ledger:
    """The changes of a run, each with the number of steps done when it took effect."""

    def __init__(self, run_folder: Path) -> None:
        self.path = run_folder / LEDGER

    def append(self, change: Change) -> None:
        """On disk before it takes effect, so that a run killed right after replays it.

        Raises QiError where it cannot be written.
        """
        line = json.dumps({"step": change.step, "setting": change.setting}) + "\n"
        try:
            with self.path.open("a+b") as file:
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)  # a line cut off by a crash
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise QiError(f"{self.path}: cannot be written ({error.strerror}); nothing was changed") from error

    def read(self) -> list[Change]:
        """All of them, in order of effect. A last line cut off by a crash never took effect and is dropped.

        Raises QiError where another line is none of ours.
        """
        if not self.path.exists():
            return []
        changes: list[Change] = []
        *lines, _ = self.path.read_bytes().split(b"\n")
        for number, line in enumerate(lines, 1):
            try:
                record = json.loads(line)
                changes.append(Change(step=int(record["step"]), setting=str(record["setting"])))
            except (ValueError, TypeError, LookupError) as error:
                raise QiError(
                    f'{self.path}:{number}: no change of a run; wanted {{"step": 7, "setting": "sampler=heun"}}; '
                    "mend the line or remove it"
                ) from error
        return sorted(changes, key=lambda change: change.step)
