"""The tracker "jsonl" at work.

A line is an object with ``event`` (start, step, evaluated, change, saved, ended) and ``timestamp`` (UTC). Numbers are
written with all their digits: reading one back gives the same float, bit for bit. Those that JSON has no word for
are the strings "nan", "inf" and "-inf", which ``float()`` reads.

A resumed run goes on in the same file after a start line with ``"resumed": true``; steps that the stopped run had
done after its last checkpoint stand there twice, and the later line is the one that counts.
"""

from __future__ import annotations

import math
import mmap
import os
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import structlog

from qi_core import Change, Ended, Evaluated, Notice, QiError, Saved, Start, StepDone


class LiveJsonLines:
    """See ``qi_core.tracker.Tracker``."""

    def __init__(self, path: Path) -> None:
        # All that structlog would take from its global settings is given here: those belong to the program around us.
        self._log: structlog.BoundLogger = structlog.wrap_logger(
            Lines(path),
            processors=[
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                structlog.processors.JSONRenderer(allow_nan=False),
            ],
            wrapper_class=structlog.BoundLogger,
            context_class=dict,
            cache_logger_on_first_use=True,
        )

    def tell(self, event: Start | StepDone | Evaluated | Change | Notice | Saved | Ended) -> None:
        name, values = _record(event)
        self._log.info(name, **{key: _plain(value) for key, value in values.items()})


class Lines:
    """A file that lines are appended to, each with one write: whole in the file when ``info`` returns."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            _cut_torn_line(path)
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        except OSError as error:
            raise QiError(f"{path}: cannot be opened ({error.strerror}); see to the folder's permissions") from error
        weakref.finalize(self, os.close, self._file)

    def info(self, line: str) -> None:
        data = memoryview(line.encode() + b"\n")
        try:
            while data:
                data = data[os.write(self._file, data) :]
        except OSError as error:
            raise QiError(f"{self._path}: cannot be written ({error.strerror}); make room, then resume") from error


def _cut_torn_line(path: Path) -> None:
    """Remove what a writer that died in the middle of a line left at the end."""
    if path.exists() and path.stat().st_size:
        with path.open("r+b") as file:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                whole = content.rfind(b"\n") + 1
            file.truncate(whole)


def _record(event: Start | StepDone | Evaluated | Change | Notice | Saved | Ended) -> tuple[str, dict[str, Any]]:
    """The line's name and values. Pictures are left to those who can show them."""
    match event:
        case Start(folder=folder, step=step, steps=steps, parameters=parameters, notes=notes):
            return "start", {
                "resumed": step > 0, "step": step, "steps": steps, "parameters": parameters, "folder": folder,
                "notes": notes,
            }  # fmt: skip
        case StepDone():
            return "step", {
                "step": event.step, "loss": event.loss, "lr": event.lr, "grad_norm": event.grad_norm,
                "samples": event.samples, "seconds": event.seconds, "parts": event.parts,
                **({"left_out": event.left_out} if event.left_out else {}),
            }  # fmt: skip
        case Evaluated():
            captions = [picture.caption for picture in event.pictures]
            return "evaluated", {
                "step": event.step, "name": event.name, "scalars": event.scalars, "captions": captions,
                "path": event.path,
            }  # fmt: skip
        case Change():
            return "change", {"step": event.step, "setting": event.setting}
        case Notice():
            return "notice", {"step": event.step, "text": event.text}
        case Saved():
            return "saved", {"step": event.step, "path": event.path, "seconds": event.seconds, "stall": event.stall}
        case Ended():
            return "ended", {
                "step": event.step, "reason": event.reason, "seconds": event.seconds, "skipped": event.skipped,
                "summary": event.summary,
            }  # fmt: skip


def _plain(value: Any) -> Any:
    """As JSON values."""
    match value:
        case float() if not math.isfinite(value):
            return repr(value)
        case Path():
            return str(value)
        case Mapping():
            return {key: _plain(item) for key, item in value.items()}
        case str():
            return value
        case Sequence():
            return [_plain(item) for item in value]
        case _:
            return value
