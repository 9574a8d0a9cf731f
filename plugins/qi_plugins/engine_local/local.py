"""The engine "local" at work."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import tempfile
import threading
import time
from pathlib import Path

from qi_core import QiError
from qi_core.engine import Workshop
from qi_core.plane.client import Care
from qi_core.plane.producer import Call
from qi_core.plane.pulling import Pulling
from qi_core.seat import seat
from qi_plugins.engine_local.component import LocalEngine

PAUSE = 0.2
"""Seconds before a producer that died is started again; doubled each time that one dies young."""
YOUNG = 30.0
FAREWELL = 30.0
"""Seconds that it has to end in."""


class Local(Pulling):
    """The first rank of each machine keeps its producer; all of them call it by a socket whose name follows from the
    run's folder."""

    def __init__(self, settings: LocalEngine, shop: Workshop) -> None:
        self._shop, self._socket = shop, _socket(shop.folder)
        self._ending, self._starting = threading.Event(), threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._keeper: threading.Thread | None = None
        if seat().local_rank == 0:
            words = ["produce", "--socket", str(self._socket), "--folder", str(shop.folder), "--while-read"]
            words += ["--processes", str(settings.processes), "--deadline", f"{settings.deadline:g}"]
            words += ["--memory", str(settings.memory)]
            words += ["--device", settings.device] if settings.device else []
            self._begin(words)
            self._keeper = threading.Thread(target=self._keep, args=(words,), name="qi-producer", daemon=True)
            self._keeper.start()
        care = Care(window=settings.window, timeout=settings.timeout)
        super().__init__([f"unix:{self._socket}"], Call(), care, shop.pinned)

    def close(self) -> None:
        with self._starting:  # none is started from now on
            self._ending.set()
        super().close()
        process = self._process
        if process is not None and process.stdin is not None:
            process.stdin.close()  # it ends when nobody is at the other end
            try:
                process.wait(FAREWELL)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self._keeper:
            self._keeper.join(FAREWELL)

    def _begin(self, words: list[str]) -> None:
        log = (self._shop.folder / "producer.log").open("ab")
        environment = {name: value for name, value in os.environ.items() if name not in NOT_ITS}
        with log:
            self._process = subprocess.Popen(
                [*self._shop.command, *words], stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment,
                start_new_session=True,  # Ctrl-C is the trainer's affair, who ends it
            )  # fmt: skip

    def _keep(self, words: list[str]) -> None:
        """Starts it again when it dies."""
        pause = PAUSE
        while not self._ending.is_set():
            began, process = time.monotonic(), self._process
            assert process is not None
            code = process.wait()
            if self._ending.is_set():
                return
            how = signal.Signals(-code).name if code < 0 else f"exit {code}"
            self._shop.tell(f"the producer ended ({how}) and is started again; {self._shop.folder / 'producer.log'}")
            pause = PAUSE if time.monotonic() - began > YOUNG else min(2 * pause, YOUNG)
            if self._ending.wait(pause):
                return
            with self._starting:
                if self._ending.is_set():
                    return
                self._begin(words)


RANKS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")
"""What tells a process that it is one of several: the producer is none."""
NOT_ITS = (*RANKS, "TORCHELASTIC_ERROR_FILE", "QI_PRODUCER_TOKEN")
"""Variables that aren't for it. A rank's last words are the rank's; a token is for producers elsewhere:
who may open its socket needs none."""


def _socket(folder: Path) -> Path:
    """Short, for the system allows about a hundred bytes; in a folder of this user's alone."""
    base = Path(tempfile.gettempdir()) / f"qi-{os.getuid()}"
    try:
        base.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise QiError(f"{base}: {error.strerror}; wanted a folder for sockets; remove it, or set TMPDIR") from error
    told = base.lstat()  # of itself: somebody else's link to a folder of this user's won't do
    if told.st_uid != os.getuid() or told.st_mode & 0o077:
        raise QiError(
            f"{base}: somebody else could look into it; wanted a folder of mode 0700 of this user's; remove it"
        )
    return base / (hashlib.blake2b(str(folder.resolve()).encode(), digest_size=9).hexdigest() + ".sock")
