"""``qi run --nproc``: the command starts the ranks of this machine, and tells how they ended."""

from __future__ import annotations

import os
import signal
import sys
from argparse import Namespace
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import frozen

from qi_core.errors import QiError
from qi_core.lastword import LAUNCHER

if TYPE_CHECKING:
    from qi_registry.asked import Asked
    from qi_registry.recipe import Recipe

FILES = 1 << 16
"""Open ones that a rank may have, if the system lets it."""


@frozen(kw_only=True)
class Launch:
    """Which ranks to start."""

    nproc: int
    restarts: int
    nnodes: int
    node_rank: int
    address: str
    words: tuple[str, ...]
    """The command of a rank, after ``qi``."""


def wanted(args: Namespace, recipe: Recipe, folder: Path) -> Launch | None:
    """None: this process trains itself. Raises QiError where the options or the recipe don't allow what is asked."""
    if args.address and args.nnodes == 1:
        raise QiError(f"--address {args.address}: where several machines meet; say how many, with --nnodes")
    if args.nproc is None and args.nnodes == 1 and not args.restarts:
        return None
    nproc = 1 if args.nproc is None else args.nproc
    for name, value, least in (("--nproc", nproc, 1), ("--restarts", args.restarts, 0), ("--nnodes", args.nnodes, 1)):
        if value < least:
            raise QiError(f"{name} {value}: at least {least} was wanted")
    if not 0 <= args.node_rank < args.nnodes:
        raise QiError(f"--node-rank {args.node_rank}: 0 to {args.nnodes - 1} was wanted, with --nnodes {args.nnodes}")
    if args.nnodes > 1 and not args.address.rpartition(":")[2].isdigit():
        raise QiError(
            f"--address {args.address or 'is not set'}: HOST:PORT of the machine with --node-rank 0 was wanted"
        )
    refuse_company(recipe, nproc * args.nnodes)
    # A rank that is started again may find this process's folder renamed, by --fresh.
    recipe_path = str(Path(args.recipe).absolute()) if Path(args.recipe).exists() else args.recipe
    words = ["run", recipe_path, *(word for line in args.set for word in ("--set", line))]
    words += ["--folder", str(folder)] if args.folder else []
    words += ["--fresh"] if args.fresh else []
    return Launch(
        nproc=nproc, restarts=args.restarts, nnodes=args.nnodes, node_rank=args.node_rank, address=args.address,
        words=tuple(words),
    )  # fmt: skip


def refuse_company(recipe: Recipe, ranks: int) -> None:
    """Raises QiError where the strategy says that so many ranks can't be."""
    from qi_core.planning import Laid

    if isinstance(recipe.parallel, Laid):
        recipe.parallel.layout(ranks)


def launch(wanted: Launch, asked: Asked) -> int:
    """Start the ranks, wait for them. The exit code: 0, 130 (SIGINT), 2 for a mistake of the user's, else 1."""
    from qi_registry.agent import supervise

    # By default each rank would take every core, and they would wait for one another.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, _cores() // wanted.nproc)))
    os.environ[LAUNCHER] = str(os.getpid())
    sys.stdout.flush()
    return supervise(wanted, asked)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def allow_connections() -> None:
    """gloo keeps a connection, which is a file, from each rank to each other one, for each of several groups: a few
    hundred ranks are more than the 1024 files that many systems allow a process at first."""
    try:
        import resource
    except ImportError:  # not on Windows
        return
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if most == resource.RLIM_INFINITY else min(FILES, most)
    if now != resource.RLIM_INFINITY and now < wanted:
        with suppress(ValueError, OSError):  # where the system's real limit is another
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def follow_launcher() -> None:
    """If ``qi run --nproc`` has started this process and is killed itself, it is as if this one were told to stop: a
    rank that nobody waits for would go on and keep the folder."""
    parent = os.environ.get(LAUNCHER, "")
    if not parent or not sys.platform.startswith("linux"):
        return
    import ctypes

    set_parent_death_signal = 1  # PR_SET_PDEATHSIG, prctl(2)
    ctypes.CDLL(None).prctl(set_parent_death_signal, int(signal.SIGTERM))
    if os.getppid() != int(parent):  # it died before
        os.kill(os.getpid(), signal.SIGTERM)
