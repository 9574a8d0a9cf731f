"""What the ranks of a run see to before it begins: that they are of one mind, and share a folder."""

from __future__ import annotations

import os
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from qi_core.errors import QiError
from qi_core.lastword import LAUNCHER

if TYPE_CHECKING:
    from qi_core.parallel import Team
    from qi_registry.asked import Asked

VERSIONS = ("qi", "torch")
"""Of which all ranks must have the same."""
LAUNCH = "launch"
"""The file in a run's folder that names the launch whose wishes the run has taken."""


def refuse_different(team: Team, asked: Asked) -> None:
    """Raises QiError, on all ranks, where one has another recipe, folder or version than rank 0."""
    from qi_registry.recipe import to_toml
    from qi_registry.runs import different_lines

    if team.ranks == 1:
        return
    versions = {f"version of {name}": _version(name) for name in VERSIONS}
    everyone = team.gather((to_toml(asked.recipe), {"folder": str(asked.folder), **versions}))
    (first, about), told = everyone[0], list[str]()
    for rank, (recipe, other) in enumerate(everyone):
        lines = [f"{key}: {value} -> {other[key]}" for key, value in about.items() if other[key] != value]
        if lines := lines or (different_lines(first, recipe) if recipe != first else []):
            told.append(f"rank {rank} has {lines[0]}" + (f" and {len(lines) - 1} more" if len(lines) > 1 else ""))
    if told:
        more = f", and {len(told) - 1} more ranks" if len(told) > 1 else ""
        raise QiError(f"ranks differ: beside rank 0 {told[0]}{more}; start all with one recipe and one installation")


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"


def refuse_unshared(team: Team, folder: Path) -> None:
    """Raises QiError, on all ranks, where one does not see the folder that rank 0 has taken."""
    blind = [rank for rank, sees in enumerate(team.gather((folder / "lock").exists())) if not sees]
    if blind:
        ranks = ", ".join(map(str, blind[:8])) + (" ..." if len(blind) > 8 else "")
        raise QiError(f"{folder}: not there for rank {ranks}; a folder that all machines share was wanted")


def log_apart(team: Team, folder: Path) -> None:
    """The terminal is rank 0's; what others say goes to ``logs/``, if ``qi run --nproc`` has started them."""
    if team.rank == 0 or LAUNCHER not in os.environ:
        return
    path = log_path(folder, team.rank)
    path.parent.mkdir(exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    with path.open("ab", buffering=0) as file:
        file.write(f"--- rank {team.rank}, process {os.getpid()}\n".encode())
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)


def log_path(folder: Path, rank: int) -> Path:
    """Where a rank's output goes."""
    return folder / "logs" / f"rank-{rank}.txt"


def restarted(folder: Path) -> bool:
    """Whether an elastic agent starts the ranks again, and the run has taken what was asked of it at the first start:
    then ``--fresh`` and ``--set`` are done, and must not undo what came after them."""
    path = folder / LAUNCH
    again = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
    return again and path.is_file() and path.read_text(encoding="utf-8") == _launch()


def mark(folder: Path) -> None:
    """The run has taken what was asked for."""
    from qi_core.files import write_whole

    if _launch():
        write_whole(folder / LAUNCH, _launch().encode())


def unmark(folder: Path) -> None:
    """Another launch."""
    (folder / LAUNCH).unlink(missing_ok=True)


def _launch() -> str:
    return os.environ.get("TORCHELASTIC_RUN_ID", "")


def last_good(asked: Asked) -> str:
    """Which checkpoint the run can go on from."""
    try:
        step = asked.recipe.store.build(asked.folder).latest()
    except QiError as error:
        return str(error)
    return "there is no checkpoint yet" if step is None else f"the last good checkpoint is of step {step}"
