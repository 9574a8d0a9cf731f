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
from qi_core.files import write_whole
from qi_core.tracker import Change


@frozen
class Request:
    """A change that somebody waits for."""

    setting: str
    """A line of TOML."""
    path: Path

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
        """The run's side: begin; what was asked of a run that has ended is refused, not obeyed later."""
        self.folder.mkdir(exist_ok=True)
        for leftover in self.folder.iterdir():
            leftover.unlink()

    def requests(self) -> Iterator[Request]:
        """What was asked since the last call, oldest first."""
        with os.scandir(self.folder) as entries:
            names = sorted(entry.name for entry in entries if entry.name.endswith(".set"))
        for name in names:
            path = self.folder / name
            yield Request(setting=path.read_text(encoding="utf-8"), path=path)

    def ask(self, setting: str, patience: float) -> int:
        """The asker's side: the step at which the change takes effect. Raises QiError if refused or unanswered."""
        path = self.folder / f"{time.time_ns()}-{os.getpid()}.set"
        write_whole(path, setting.encode())
        reply = path.with_suffix(".reply")
        deadline = time.monotonic() + patience
        while not reply.exists():
            if time.monotonic() > deadline:
                path.unlink(missing_ok=True)
                raise QiError(
                    f"{self.folder.parent}: the run did not answer within {patience:g} s; nothing was changed"
                )
            time.sleep(0.02)
        told = json.loads(reply.read_text())
        reply.unlink()
        if told["step"] is None:
            raise QiError(told["message"])
        return int(told["step"])


class Ledger:
    """The changes of a run, each with the number of steps done when it took effect."""

    def __init__(self, run_folder: Path) -> None:
        self.path = run_folder / "events.jsonl"

    def append(self, change: Change) -> None:
        """On disk before it takes effect, so that a run killed right after replays it."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": change.step, "setting": change.setting}) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def read(self) -> list[Change]:
        """All of them, in order of effect. A last line cut off by a crash never took effect and is dropped."""
        if not self.path.exists():
            return []
        changes: list[Change] = []
        for line in self.path.read_text(encoding="utf-8").splitlines(keepends=True):
            if line.endswith("\n"):
                record = json.loads(line)
                changes.append(Change(step=record["step"], setting=record["setting"]))
        return sorted(changes, key=lambda change: change.step)
