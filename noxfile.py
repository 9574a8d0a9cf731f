"""All checks. `nox` runs the default ones; `nox -s gpu bench` the others.

`tests` runs against the built wheel, in an environment that has qi as it is installed and the packages of the one that
nox is in, so that a file missing from the wheel is found; the rest run in the environment that nox itself is in.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import nox

nox.options.sessions = ["lint", "types", "layers", "tests"]
nox.options.reuse_venv = "yes"

PACKAGES = "import sysconfig; print(sysconfig.get_path('purelib'))"


def run(session: nox.Session, tool: str, *words: str) -> None:
    """A tool of the environment that nox is in, whether that is activated or not."""
    session.run(str(Path(sys.executable).parent / tool), *words, external=True)


@nox.session(venv_backend="none")
def lint(session: nox.Session) -> None:
    """Style."""
    run(session, "ruff", "check", ".")
    run(session, "ruff", "format", "--check", ".")


@nox.session(venv_backend="none")
def types(session: nox.Session) -> None:
    """mypy strict on core, registry and plugins, pyright strict on what plugin authors see. Side by side: each takes a
    minute of one core."""
    tools = Path(sys.executable).parent
    with subprocess.Popen([tools / "mypy"]) as first:
        second = subprocess.run([tools / "pyright", "--pythonpath", sys.executable], check=False)
    if first.returncode or second.returncode:
        session.error("types don't fit")


@nox.session(venv_backend="none")
def layers(session: nox.Session) -> None:
    """registry -> core <- plugins."""
    run(session, "lint-imports")


@nox.session(venv_backend="none")
def recipes(session: nox.Session) -> None:
    """Every shipped recipe is sound: a part of ``tests``, in seconds."""
    run(session, "pytest", "-q", "tests/recipes", "-m", "not slow", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """The whole suite against the built wheel; arguments go to pytest."""
    folder = Path(session.cache_dir) / "wheel"
    shutil.rmtree(folder, ignore_errors=True)
    session.run("pip", "wheel", "-q", "--no-deps", "-w", str(folder), ".", silent=True)
    wheel = str(next(folder.glob("qi-*.whl")).resolve())
    # Everything but qi comes from the environment that nox is in, which has it in these versions already. (Its own
    # .pth files are not read there, so its editable qi is not seen.)
    own = Path(session.run("python", "-c", PACKAGES, silent=True).strip())  # type: ignore[union-attr]
    (own / "shared.pth").write_text(sysconfig.get_path("purelib") + "\n")
    session.install("-q", "--no-deps", "--force-reinstall", wheel)
    # For the numbers in its wheel alone, which the reward reads as text: what it depends on has to be compiled.
    session.install("-q", "--no-deps", "-c", "constraints.txt", "brisque")
    # A file is one worker's, with what its tests share; slow files come first (tests/conftest.py).
    words = session.posargs or ["-n", "2", "--dist", "loadscope", "--no-loadscope-reorder", "--durations", "10"]
    session.run("python", "-m", "pytest", "-q", *words, env={"OMP_NUM_THREADS": "1"})


@nox.session(venv_backend="none")
def gpu(session: nox.Session) -> None:
    """Parity on CUDA and the speed of a training step; needs a card."""
    run(session, "pytest", "-q", "-m", "gpu", *session.posargs)
    run(session, "python", "benchmarks/gpu.py")


@nox.session(venv_backend="none")
def bench(session: nox.Session) -> None:
    """Every benchmark that a CPU can run, one after another."""
    for name in ("startup", "loop", "vae", "mmdit", "rl", "plane", "cache", "first_batch"):
        run(session, "python", f"benchmarks/{name}.py")
