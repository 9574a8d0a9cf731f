"""A run so small that a step takes milliseconds, and ways to start it as users do: the command, in a process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Protocol

RECIPE = """
conditioner = "characters"
objective = "flow-matching"
tracker = ["jsonl"]
[autoencoder]
name = "patchify"
patch = 8
[denoiser]
name = "mmdit"
layers = 2
heads = 2
head_dim = 16
axes_dims_rope = [4, 6, 6]
[source]
name = "rendered-text"
height = 16
width = 32
lengths = [1, 2]
[sampler]
name = "euler"
steps = 4
[optimizer]
name = "adamw"
lr = 1e-3
warmup = 5
[parallel]
name = "single"
threads = 1
[train]
steps = 60
batch = 4
ema = 0.9
save_every = 7
[preview]
height = 16
width = 32
"""


def of_files(path: Path, batch: int, save_every: int, source: str = "", data: str = "") -> str:
    """The same on a folder of pictures. ``source`` and ``data``: more lines of these sections."""
    before, after = RECIPE.split("[source]")[0], "[optimizer]" + RECIPE.split("[optimizer]")[1]
    after = after.replace("batch = 4", f"batch = {batch}").replace("save_every = 7", f"save_every = {save_every}")
    return f"""{before}
[source]
name = "images"
path = "{path}"
side = 32
flip = true
crop = "random"
{source}
[data]
portion = 2
{data}
{after}"""


def write_recipe(folder: Path, text: str = RECIPE) -> Path:
    """The recipe as a file."""
    path = folder / "small.toml"
    path.write_text(text, encoding="utf-8")
    return path


def environment() -> dict[str, str]:
    """One thread, so that processes side by side don't wait for each other."""
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def start(*words: str | Path) -> subprocess.Popen[str]:
    """``qi`` in a process of its own."""
    command = [sys.executable, "-m", "qi_registry.cli", *map(str, words)]
    return subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace"
    )


def qi(*words: str | Path, code: int = 0) -> str:
    """Run ``qi`` to its end; what it printed. The exit code must be ``code``; a traceback is never right."""
    process = start(*words)
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, f"exit {process.returncode}\n{out}\n{err}"
    assert "Traceback" not in err, err
    return out + err


def here(*words: str | Path, code: int = 0) -> None:
    """The same within this process, which is quicker; what it prints goes where the test's own output goes."""
    from qi_registry.cli import main

    assert main([str(word) for word in words]) == code


class Started(Protocol):
    """A process."""

    def poll(self) -> int | None:
        """Exit code, or None while it runs."""
        ...


def wait_for_step(process: Started, folder: Path, step: int) -> None:
    """Until the log says that so many steps are done, or the run has ended."""
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if (folder / "log.jsonl").exists() and any(int(str(r["step"])) >= step for r in steps(folder)[-5:]):
            return
        time.sleep(0.002)
    assert process.poll() is not None, "the run made no step in two minutes"


def steps(folder: Path) -> list[dict[str, object]]:
    """The records of steps in a run's log, as they were written. A line cut off by a kill is passed over."""
    records: list[dict[str, object]] = []
    for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if record["event"] == "step":
            records.append(record)
    return records


def losses(folder: Path) -> dict[int, float]:
    """Loss by step; of a step done twice, both must agree to the last bit."""
    found: dict[int, float] = {}
    for record in steps(folder):
        step, loss = int(str(record["step"])), float(str(record["loss"]))
        assert found.setdefault(step, loss) == loss, f"step {step}: {found[step]!r} and {loss!r}"
    return found
