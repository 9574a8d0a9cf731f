"""A watch over training steps: a rank that makes no progress tells where it stands, and ends.

In a collective that never ends nothing fails: each rank waits for another. So a thread of each rank looks whether its
step goes on. It writes the stacks of all its threads, and ends the process, so that a launcher can start anew.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import TextIO

from qi_core import lastword

FAILED = 1
"""Exit code."""


class Watch:
    """Of one rank. ``timeout``: seconds without progress that count as a hang; 0: no watch."""

    def __init__(self, folder: Path, rank: int, timeout: float) -> None:
        self.timeout = timeout
        self.path = folder / "stacks" / f"rank-{rank}.txt"
        self._rank = rank
        self._doing, self._since, self._armed, self._allowed = "", 0.0, 0.0, timeout
        self._done = threading.Event()
        self._file: TextIO | None = None

    @property
    def linger(self) -> float:
        """Seconds between the stacks and the end: others, whose wait began later, write theirs, and don't find the
        connection broken first."""
        return max(1.0, self.timeout / 10)

    def __enter__(self) -> Watch:
        if self.timeout:
            self.path.parent.mkdir(exist_ok=True)
            self._file = self.path.open("w", encoding="utf-8")
            self._thread = threading.Thread(target=self._work, name="qi-watch", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._file is None:
            return
        self.rest()
        self._done.set()
        self._thread.join()
        self._file.close()
        if not self.path.stat().st_size:
            self.path.unlink()
            with suppress(OSError):  # others are still there
                self.path.parent.rmdir()

    def see(self, doing: str, allowed: float = 0.0) -> None:
        """There is progress: from now on the rank is at this part of a step. ``allowed``: seconds that it may take, if
        more than others."""
        if self._file is None:
            return
        now, before = time.monotonic(), self._allowed
        self._allowed = max(allowed, self.timeout)
        self._doing, self._since = doing, now
        if now - self._armed > self.timeout / 10 or self._allowed != before:
            # A thread of C, for the case that Python's can't run: something holds the interpreter's lock.
            late = 1.1 * self._allowed + 2 * self.linger
            faulthandler.dump_traceback_later(late, exit=True, file=self._file)
            self._armed = now

    def rest(self) -> None:
        """What comes now may take as long as it likes: a save, an evaluation, pictures."""
        if self._file is not None:
            self._doing, self._armed = "", 0.0
            faulthandler.cancel_dump_traceback_later()

    def _work(self) -> None:
        pause = 0.0
        while not self._done.wait(pause):
            doing, left = self._doing, self._since + self._allowed - time.monotonic()
            if doing and left < 0:
                self._give_up(doing)
            pause = min(1.0, self.timeout / 20, max(left, 0.01))

    def _give_up(self, doing: str) -> None:
        faulthandler.cancel_dump_traceback_later()
        frames = sys._current_frames()  # pyright: ignore[reportPrivateUsage]
        where = place(frames.get(threading.main_thread().ident or 0))
        assert self._file is not None
        faulthandler.dump_traceback(self._file, all_threads=True)
        lastword.tell(
            f"rank {self._rank}: no progress for {self._allowed:g} s in {doing!r} of a step, at {where}; "
            f"the stacks of its threads are in {self.path}",
            lastword.HANG,
        )
        time.sleep(self.linger)
        os._exit(FAILED)  # the main thread can't be asked to leave


def place(frame: FrameType | None) -> str:
    """``folder/file.py:12 in function``, and from where in qi it was called."""
    if frame is None:
        return "an unknown place"
    inner, ours = frame, frame
    while not _is_ours(ours) and ours.f_back is not None:
        ours = ours.f_back
    return _named(inner) + (f" called by {_named(ours)}" if _is_ours(ours) and ours is not inner else "")


def _is_ours(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__", "")).startswith("qi_")


def _named(frame: FrameType) -> str:
    return f"{'/'.join(Path(frame.f_code.co_filename).parts[-2:])}:{frame.f_lineno} in {frame.f_code.co_name}"
