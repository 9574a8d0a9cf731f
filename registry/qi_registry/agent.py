"""Ranks of this machine under torch's elastic agent: it starts, watches and restarts them; here is what is told."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
import tempfile
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerSpec
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import LogsDest, LogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure
from torch.distributed.elastic.rendezvous import RendezvousParameters
from torch.distributed.elastic.rendezvous.api import RendezvousError
from torch.distributed.elastic.rendezvous.registry import get_rendezvous_handler

from qi_core.errors import LostError
from qi_core.lastword import HANG, LOST, MISTAKE
from qi_registry.asked import Asked
from qi_registry.cli import INTERRUPTED, USER_ERROR
from qi_registry.launch import Launch
from qi_registry.ranks import last_good, log_path

GRACE = 3600
"""Seconds that ranks have, once they are told to stop, for the step at hand and a save. Whoever stops the whole job has
a grace time of his own, usually much shorter; a second signal makes it ``HURRY``."""
HURRY = 5
AGENT_PATIENCE = 30
"""Seconds after which torch's agent kills ranks that are left when one has failed."""
FINAL = (USER_ERROR, INTERRUPTED)
"""Exit codes of ranks after which another attempt would end alike, or is not wanted."""
TAIL = 30
"""Lines of a crashed rank's output that are shown."""


def supervise(wanted: Launch, asked: Asked) -> int:
    """Start the ranks of this machine, wait for their end, tell it. The exit code."""
    logging.getLogger("torch.distributed.elastic").addHandler(logging.NullHandler())  # told here, in one line
    logging.getLogger("torch.distributed.elastic").propagate = False
    scratch = Path(tempfile.mkdtemp(prefix="qi-launch-"))
    agent = Agent(wanted, asked, Logs(scratch))
    try:
        result: RunResult | None = agent.run()  # type: ignore[assignment,unused-ignore]  # None: another machine ended it
    except SignalException as stopped:
        return _stopped(stopped.sigval, agent.exit_codes())
    except RendezvousError as error:
        raise LostError(
            f"the machines did not meet at {wanted.address} ({error}); see that all were started"
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return 0 if result is not None and not result.is_failed() else agent.code


def _stopped(sent: signal.Signals, codes: Mapping[int, int | None]) -> int:
    """A signal came to the command; the ranks were told."""
    if all(code == 0 for code in codes.values()):
        return 0
    if sent == signal.SIGINT:
        return INTERRUPTED
    odd = next(rank for rank, code in codes.items() if code != 0)
    print(f"stopped by {sent.name}; rank {odd} {_manner(codes[odd])} before it had saved", file=sys.stderr)
    return 1


class Logs(LogsSpecs):
    """Rank 0 has the terminal. The others write into a scratch folder until they know the run's (see ``log_apart``)."""

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder))
        self.folder = folder

    @property
    def root_log_dir(self) -> str:
        return str(self.folder)

    def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
        """See ``LogsSpecs``."""
        errors, streams = dict[int, str](), dict[int, str]()
        for local, env in envs.items():
            rank = env["RANK"]
            errors[local] = env["TORCHELASTIC_ERROR_FILE"] = str(self.folder / f"{rank}.json")
            Path(errors[local]).unlink(missing_ok=True)  # of the attempt before
            streams[local] = "" if rank == "0" else str(self.early(int(rank)))
        return LogsDest(stdouts=streams, stderrs=dict(streams), error_files=errors)

    def early(self, rank: int) -> Path:
        """What a rank said before it knew the run's folder."""
        return self.folder / f"{rank}.txt"


class Agent(LocalElasticAgent):
    """torch's agent, which tells one line of each failure."""

    def __init__(self, wanted: Launch, asked: Asked, logs: Logs) -> None:
        alone = wanted.nnodes == 1
        if not alone:
            # The ranks of each attempt meet at a place of their own: agents of several machines may not count alike.
            os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
        meeting = RendezvousParameters(
            backend="c10d",
            endpoint="localhost:0" if alone else wanted.address,
            run_id=str(uuid.uuid4()) if alone else "qi",
            min_nodes=wanted.nnodes,
            max_nodes=wanted.nnodes,
            local_addr="localhost" if alone else None,
            is_host=wanted.node_rank == 0,
        )
        spec = WorkerSpec(
            role="rank",
            local_world_size=wanted.nproc,
            rdzv_handler=get_rendezvous_handler(meeting),
            entrypoint=sys.executable,
            args=("-m", "qi_registry.cli", *wanted.words),
            max_restarts=wanted.restarts,
            monitor_interval=0.1,
            local_addr=meeting.local_addr,
        )
        super().__init__(spec, logs, shutdown_timeout=GRACE)
        self.code = 1
        self._wanted, self._asked, self._logs = wanted, asked, logs

    def exit_codes(self) -> dict[int, int | None]:
        """By rank of this machine, in the order of ranks."""
        handlers: Mapping[int, Any] = getattr(self._pcontext, "subprocess_handlers", {})
        return {local: handler.proc.poll() for local, handler in sorted(handlers.items())}

    # What torch expects of an agent is this method; its own is behind a decorator that hides the types.
    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:  # pyright: ignore
        result: RunResult = super()._monitor_workers(worker_group)  # pyright: ignore
        if result.is_failed():
            rank = culprit(result.failures)
            code = result.failures[rank].exitcode
            self.code = code if code in FINAL else 1
            if code in FINAL:
                self._remaining_restarts = 0
            self._tell(result.failures, rank)
        return result

    def _tell(self, failures: Mapping[int, ProcessFailure], rank: int) -> None:
        """One line; before it the end of a crashed rank's output, for that is a mistake of the program's."""
        failure = failures[rank]
        if failure.exitcode == INTERRUPTED:
            return
        reason = _reason(failure)
        if failure.exitcode == USER_ERROR and reason:
            print(reason, file=sys.stderr)
            return
        log = log_path(self._asked.folder, rank)
        if failure.exitcode > 0 and not reason and rank:
            for path in (self._logs.early(rank), log):
                lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
                print("".join(f"{text}\n" for text in lines[-TAIL:]), end="", file=sys.stderr)
        line = reason or f"rank {rank} {_manner(failure.exitcode)}" + (f" (its output: {log})" if rank else "")
        stacks = self._asked.folder / "stacks" / f"rank-{rank}.txt"
        if failure.exitcode == 1 and not reason and stacks.is_file() and stacks.stat().st_size:
            line += f"; it made no progress: {stacks}"  # too stuck to say so itself
        if _kind(failure) == HANG:
            others = {r: _kind(each) == HANG for r, each in failures.items() if r != rank}
            for says, hang in (("hangs too", True), ("did not answer", False)):
                if ranks := ", ".join(str(r) for r, same in others.items() if same is hang):
                    line += f"; rank {ranks} {says}"
        print(f"{line}; {last_good(self._asked)}; {self._next()}", file=sys.stderr, flush=True)

    def _next(self) -> str:
        if self._remaining_restarts:
            number = self._wanted.restarts - self._remaining_restarts + 1
            return f"the run goes on from there (restart {number} of {self._wanted.restarts})"
        return f"go on with: qi run {self._asked.folder} --nproc {self._wanted.nproc}"

    def _shutdown(self, death_sig: signal.Signals = signal.SIGTERM, timeout: int = 30) -> None:
        try:
            super()._shutdown(death_sig, timeout)
        except SignalException as again:
            super()._shutdown(again.sigval, HURRY)


def culprit(failures: Mapping[int, ProcessFailure]) -> int:
    """The rank that failed first, as far as can be seen: not one that ended because others were gone, or because the
    agent then stopped it."""

    hangs = [failure.timestamp for failure in failures.values() if _kind(failure) == HANG]

    def blame(rank: int) -> tuple[int, int, int]:
        failure = failures[rank]
        late = bool(hangs) and failure.timestamp > min(hangs) + AGENT_PATIENCE / 2 and not _kind(failure)
        stopped = failure.exitcode in (-signal.SIGTERM, 0) or late
        order = {MISTAKE: 0, "": 1, HANG: 2, LOST: 3}
        return (4 if stopped else order.get(_kind(failure), 1), failure.timestamp, rank)

    return min(failures, key=blame)


def _kind(failure: ProcessFailure) -> str:
    return str(failure.error_file_data.get("kind", ""))


def _reason(failure: ProcessFailure) -> str:
    """What the rank said itself."""
    return failure.message if _kind(failure) else ""


def _manner(code: int | None) -> str:
    """How a process ended."""
    if code is not None and code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"
