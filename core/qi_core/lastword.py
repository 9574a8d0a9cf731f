"""Why a process ends before its time: told to a person and to the launcher, once however many ranks say the same."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

from qi_core.errors import QiError
from qi_core.seat import seat

LAUNCHER = "QI_LAUNCHER"
"""In the environment of ranks that ``qi run --nproc`` started: its process id. It tells errors itself."""
MISTAKE, LOST, HANG = "mistake", "lost", "hang"
"""Kinds of ends: the user's or the world's mistake; other ranks are gone; no progress."""
ERROR_FILE = "TORCHELASTIC_ERROR_FILE"
"""Where torch's elastic agent (torchrun's too) looks for the reason why a rank ended."""


def tell(text: str, kind: str) -> None:
    """``kind``: one of the three above."""
    several = _ranks() > 1
    if path := os.environ.get(ERROR_FILE):
        leave(path, text, kind)
    if several and LAUNCHER in os.environ and _rank() == 0:
        return  # its launcher has the same terminal, and tells it
    team = _team()
    alike = bool(team) and kind == MISTAKE and LAUNCHER not in os.environ and team.joined()
    if not (alike and team.told_by_another(text)):
        told = f"rank {_rank()}: {text}" if several and not text.startswith("rank ") else text
        print(told, file=sys.stderr, flush=True)
    if alike:
        team.linger(text)


def leave(path: str, text: str, kind: str) -> None:
    """As torch's ``ProcessFailure`` reads it."""
    try:
        with open(path, "w", encoding="utf-8") as file:
            json.dump({"message": text, "timestamp": int(time.time()), "kind": kind}, file)
    except OSError as error:
        print(f"{path}: cannot be written ({error.strerror})", file=sys.stderr)


def _team() -> Any:
    """The module, which imports torch; None: who has not imported it has joined nobody."""
    return sys.modules.get("qi_core.team")


def _rank() -> int:
    try:
        return seat().rank
    except QiError:
        return 0


def _ranks() -> int:
    try:
        return seat().ranks
    except QiError:
        return 1
