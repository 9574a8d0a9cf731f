"""What runs inside an actor: ``qi produce``, kept alive."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

PATIENCE = 60.0
"""Seconds in which a producer must tell where it listens."""


class Host:
    """One producer. It ends with the actor: it reads its standard input, whose other end the actor holds."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], loopback: bool) -> None:
        self._command, self._environment = list(command), dict(environment)
        self._host = "127.0.0.1" if loopback else _own_address()
        self._process: subprocess.Popen[str] | None = None
        self._address = ""

    def address(self) -> str:
        """Where it listens; it is started (again) if it doesn't."""
        if self._process is None or self._process.poll() is not None:
            self._start()
        return self._address

    def pid(self) -> int:
        """Of the producer."""
        assert self._process is not None
        return self._process.pid

    def _start(self) -> None:
        words = [*self._command, "--host", self._host, "--port", "0", "--while-read"]
        self._process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **self._environment},
            cwd=tempfile.gettempdir(),
        )  # fmt: skip
        assert self._process.stdout is not None
        line = _line(self._process.stdout)
        if not line:
            self._process.kill()
            raise RuntimeError(f"a producer did not begin within {PATIENCE:g} s (exit {self._process.wait()})")
        self._address = line.split()[0]


def _line(stream: Any) -> str:
    import select

    ready, _, _ = select.select([stream], [], [], PATIENCE)
    return stream.readline() if ready else ""


def _own_address() -> str:
    import ray

    util: Any = ray.util
    return str(util.get_node_ip_address())
