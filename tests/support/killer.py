"""What a process of ``qi data filter`` does, without a recipe: ticket 13 kills it always, 7 the first time alone; 99
takes for ever."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_folder: list[Path] = []


def begin(work: Any) -> None:
    _folder.append(Path(work.folder))


def judge(tickets: Sequence[tuple[int, ...]]) -> list[str]:
    for (number,) in tickets:
        while number == 99:
            time.sleep(1)
        mark = _folder[0] / str(number)
        if number == 13 or (number == 7 and not mark.exists()):
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
    return [f"row {number}" for (number,) in tickets]
