"""Commands in processes that are forked from one which has imported everything: they start in no time.

Each is a process of its own, that can be killed, stopped and told to end; several with an environment as torchrun gives
it are the ranks of one run.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from attrs import frozen

from support.ranks import free_port
from support.small_run import environment, wait_for_step


@frozen
class Member:
    """A process that was started. It can be waited for as ``subprocess.Popen`` can."""

    pid: int
    said: Path
    """What it wrote on stdout and stderr."""
    ended: Path

    def poll(self) -> int | None:
        """Exit code (negative: the signal that killed it), or None while it runs."""
        return int(self.ended.read_text()) if self.ended.exists() else None

    def kill(self, number: int = signal.SIGKILL) -> None:
        os.kill(self.pid, number)

    def wait(self, limit: float = 60) -> int:
        deadline = time.monotonic() + limit
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                self.kill()
                raise AssertionError(f"still there after {limit:g} s: {self.said.read_text()}")
            time.sleep(0.01)
        return code

    @property
    def lines(self) -> list[str]:
        return self.said.read_text(errors="replace").splitlines()


class Crew:
    """Starts them; all that are left are killed at its end."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._members = folder, list[Member]()

    def __enter__(self) -> Crew:
        paths = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
        code = "from support.crew import _serve; _serve()"
        self._server = subprocess.Popen(
            [sys.executable, "-c", code],
            env={**environment(), "PYTHONPATH": os.pathsep.join(paths)},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for member in self._members:
            if member.poll() is None:
                member.kill()
                member.wait()
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait(10)
        assert self._server.stdout is not None
        self._server.stdout.close()

    def start(self, *words: str | Path, env: Mapping[str, str] | None = None) -> Member:
        """``qi`` with these words."""
        number = len(self._members)
        said, ended = self._folder / f"said-{number}.txt", self._folder / f"ended-{number}"
        job = {"words": [str(word) for word in words], "env": dict(env or {}), "said": str(said), "ended": str(ended)}
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(job) + "\n")
        self._server.stdin.flush()
        member = Member(int(self._server.stdout.readline()), said, ended)
        self._members.append(member)
        return member

    def qi(self, *words: str | Path, code: int = 0) -> str:
        """``qi`` run to its end; what it said. The exit code must be ``code``; a traceback is never right."""
        member = self.start(*words)
        ended, said = member.wait(300), member.said.read_text(errors="replace")
        assert ended == code, f"exit {ended}\n{said}"
        assert "Traceback" not in said, said
        return said

    def ranks(self, *words: str | Path, own: Sequence[Sequence[str | Path]] = ((), ()), **env: str) -> list[Member]:
        """One a member of ``own``, which are words of its own, as srun or a person would start them."""
        place = {"WORLD_SIZE": str(len(own)), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), **env}
        return [
            self.start(*words, *more, env={**place, "RANK": str(rank), "LOCAL_RANK": str(rank)})
            for rank, more in enumerate(own)
        ]


def children(pid: int) -> dict[int, int]:
    """Of a launcher: process id by rank."""
    found: dict[int, int] = {}
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        for line in Path(f"/proc/{child}/environ").read_text(errors="replace").split("\0"):
            if line.startswith("RANK="):
                found[int(line.removeprefix("RANK="))] = int(child)
    return found


def until_step(member: Member, folder: Path, step: int) -> None:
    """Until the run's log says that so many steps are done."""
    wait_for_step(member, folder, step)
    assert member.poll() is None, member.said.read_text()


def until_saved(folder: Path, step: int) -> None:
    """Until the checkpoint of a step is whole: it is written while the run goes on."""
    deadline = time.monotonic() + 60
    while not (folder / "checkpoints" / f"step-{step:08d}").is_dir():
        assert time.monotonic() < deadline, f"no checkpoint of step {step} in a minute"
        time.sleep(0.002)


def _serve() -> None:
    """The process that commands are forked from. Nothing may compute in it: threads don't survive a fork."""
    from qi_registry import cli
    from qi_registry.registry import installed

    for each in ("torch.distributed.fsdp", "qi_core.loop", "qi_registry.agent", "qi_registry.assemble"):
        importlib.import_module(each)
    installed()
    running: dict[int, str] = {}
    os.set_blocking(0, False)
    line = ""
    while True:
        try:
            got = os.read(0, 65536).decode()
            if not got:
                return
            line += got
        except BlockingIOError:
            pass
        while "\n" in line:
            job, _, line = line.partition("\n")
            pid = _fork(json.loads(job), cli)
            running[pid] = json.loads(job)["ended"]
            print(pid, flush=True)
        for pid in list(running):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                ended = Path(running.pop(pid))
                ended.with_suffix(".part").write_text(str(os.waitstatus_to_exitcode(status)))
                ended.with_suffix(".part").rename(ended)
        time.sleep(0.005)


def _fork(job: dict[str, object], cli: object) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        said = os.open(str(job["said"]), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(said, 1)
        os.dup2(said, 2)
        env = job["env"]
        assert isinstance(env, dict)
        os.environ |= env
        if "QI_NOTES" in env:
            from support import noting

            noting.note(Path(env["QI_NOTES"]))
            noting.note_pulls(Path(env["QI_NOTES"]).with_suffix(".pulls"))
        code = cli.main(job["words"])  # type: ignore[attr-defined]
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return pid
