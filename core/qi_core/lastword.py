"""Why a process ends before its time: told to a person and to the launcher, once however many ranks say the same."""

from __future__ import annotations

import json
import os
import sys
import time

from qi_core.errors import QiError
from qi_core.seat import seat

LAUNCHER = "QI_LAUNCHER"
"""In the environment of ranks that ``qi run --nproc`` started: its process id. It tells errors itself."""
ERROR_FILE = "TORCHELASTIC_ERROR_FILE"
"""Where torch's elastic agent (torchrun's too) looks for the reason why a rank ended."""


def tell(text: str, kind: str) -> None:
    """``kind``: "mistake" (of the user's or the world's), "lost" (other ranks are gone), "hang" (no progress)."""
    several = _ranks() > 1
    if path := os.environ.get(ERROR_FILE):
        leave(path, text, kind)
    if several and LAUNCHER in os.environ and _rank() == 0:
        return  # its launcher has the same terminal, and tells it
    if several and LAUNCHER not in os.environ and _told_by_another(text):
        return
    print(f"rank {_rank()}: {text}" if several and not text.startswith("rank ") else text, file=sys.stderr, flush=True)


def leave(path: str, text: str, kind: str) -> None:
    """As torch's ``ProcessFailure`` reads it."""
    try:
        with open(path, "w", encoding="utf-8") as file:
            json.dump({"message": text, "timestamp": int(time.time()), "kind": kind}, file)
    except OSError as error:
        print(f"{path}: cannot be written ({error.strerror})", file=sys.stderr)


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


def _told_by_another(text: str) -> bool:
    team = sys.modules.get("qi_core.team")  # who has not imported it has joined nobody
    return bool(team and team.told_by_another(text))
