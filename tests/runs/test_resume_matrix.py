"""One checkpoint: what any layout saved any other goes on from, to the same losses, weights, average and optimizer.

Four ranks are forked once. In worlds of one, two and four of them every layout makes two steps, saves and makes two
more; then every layout takes every checkpoint and makes the last two. A layout is one line of ``LAYOUTS``.
"""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from support.ranks import Case, Seen, apart, free_port, make, steps, together, whole

if TYPE_CHECKING:
    from qi_core import Strategy
    from qi_core.run import Run

pytestmark = pytest.mark.slow

LAYOUTS: dict[str, tuple[int, str, dict[str, Any]]] = {
    "single": (1, "single", {}),
    "fsdp 2": (2, "fsdp", {}),
    "fsdp 2x2": (4, "fsdp", {"tensor": 2}),
    "fsdp 2, copied": (4, "fsdp", {"shard": 2}),
    "megatron TP1": (1, "megatron", {}),
    "megatron TP2xDP2": (4, "megatron", {"tensor": 2}),
    "megatron TP4": (4, "megatron", {"tensor": 4}),
}
"""Name -> ranks, strategy, its settings."""
if importlib.util.find_spec("megatron") is None:
    LAYOUTS = {name: layout for name, layout in LAYOUTS.items() if layout[1] != "megatron"}
COPIED = "fsdp 2, copied"
"""Differs from "fsdp 2" in who writes alone: it meets single and itself."""
CELLS = [
    (one, other)
    for one in LAYOUTS
    for other in LAYOUTS
    if COPIED not in (one, other) or {one, other} <= {COPIED, "single"}
]
CASE = Case(batch=4)
"""Packed pictures of three sizes."""
CLOSE, DRIFTED = 1e-5, 5e-5
"""The second of the optimizer's averages, which follow from gradients of weights that rounding has set apart."""


Told = dict[str, Any]
"""What a rank saw of a layout. ``seen``; ``replica``, its number; ``drawn``: of each step, the samples that it learned
from; ``differing``: what a run holds right after it took a checkpoint, and the checkpoint does not."""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> list[dict[Any, Told]]:
    """Of each rank."""
    preload = ("support.megatron_cpu",) if "megatron TP1" in LAYOUTS else ()
    return together(4, everything, str(tmp_path_factory.mktemp("saved")), preload=preload, limit=400)


def everything(place: str) -> dict[Any, Told]:
    """On each rank."""
    found: dict[Any, Told] = {}
    folder = Path(place)
    for ranks in (1, 2, 4):
        with world(ranks, folder / f"port-{ranks}") as layouts:
            found |= {name: saved(name, folder) for name in layouts}
    for ranks in (1, 2, 4):
        with world(ranks, folder / f"port-{ranks}-again") as layouts:
            found |= {(one, name): resumed(one, name, folder) for one, name in CELLS if name in layouts}
    return found


@contextmanager
def world(ranks: int, port: Path) -> Generator[list[str]]:
    """The first so many ranks, by themselves: the layouts that they are for. ``port``: a file in which rank 0 tells
    where they meet, just before they do: a port that is free now may soon be somebody's."""
    import torch.distributed as dist

    before = dict(os.environ)
    rank = int(os.environ["RANK"])
    inside = rank < ranks
    if rank == 0:
        port.with_suffix(".part").write_text(str(free_port()))
        port.with_suffix(".part").rename(port)
    while inside and not port.exists():
        time.sleep(0.01)
    os.environ |= {"WORLD_SIZE": str(ranks), "MASTER_PORT": port.read_text() if inside else "0"}
    yield [name for name, (wanted, *_) in LAYOUTS.items() if inside and wanted == ranks]
    if dist.is_initialized():
        dist.destroy_process_group()
    os.environ |= before


def strategy(name: str) -> Strategy:
    from qi_plugins.parallel_fsdp.component import Fsdp
    from qi_plugins.parallel_megatron.component import Megatron
    from qi_plugins.parallel_single.component import Single

    kinds: dict[str, Any] = {"single": Single, "fsdp": Fsdp, "megatron": Megatron}
    _, kind, settings = LAYOUTS[name]
    live: Strategy = kinds[kind](device="cpu", precision="fp32", threads=1, **settings).build()
    return live


def store(run: Run, name: str, folder: Path) -> Any:
    from qi_plugins.store_folder.component import Folder

    return Folder().build(folder / name, run.strategy.team)


def saved(name: str, folder: Path) -> Told:
    """Two steps, a save that goes on beside the next two."""
    from qi_core import checkpoint

    run = make(strategy(name), CASE)
    drawn = watched(run)
    first = steps(run, 2)
    live = store(run, name, folder)
    live.save(checkpoint.take(run))
    seen = steps(run, 2)
    live.wait()
    seen.losses[:0] = first.losses
    return {"seen": seen, "replica": run.strategy.replica, "drawn": drawn, "differing": []}


def resumed(before: str, name: str, folder: Path) -> Told:
    """Two steps from what another had after two."""
    from qi_core import checkpoint

    run = make(strategy(name), CASE)
    drawn = watched(run)
    found = store(run, before, folder).load()
    checkpoint.give_back(run, found)
    differing = list(differences(checkpoint.take(run), found))
    return {"seen": steps(run, 2), "replica": run.strategy.replica, "drawn": drawn, "differing": differing}


def differences(own: Any, found: Any) -> Generator[str]:
    """Tensors (and the rest) of a rank that are not, to the last bit, what the checkpoint has there."""
    import torch

    from qi_core.shards import region

    if own.state != found.state:
        yield f"{own.state} is not {found.state}"
    for group, tensors in own.tensors.items():
        yield from (f"{group}/{n}" for n, tensor in tensors.items() if not torch.equal(tensor, found.tensors[group][n]))
    for group, names in own.parts.items():
        for name, parts in names.items():
            for part in parts:
                if not torch.equal(part.tensor, region(found.tensors[group], name, part.slices)):
                    yield f"{group}/{name}"


def watched(run: Run) -> list[list[str]]:
    """The samples of each step that this rank learns from."""
    from qi_core import loop
    from qi_core.dealing import dealt as plain

    drawn: list[list[str]] = []

    def seen(*args: Any) -> Any:
        dealt = plain(*args)
        drawn.append([item.key for micro, share in dealt if share for item in micro.items])
        return dealt

    loop.dealt = seen  # type: ignore[assignment]
    return drawn


def of(told: Sequence[Mapping[Any, Told]], key: Any) -> list[Told]:
    name = key if isinstance(key, str) else key[1]
    return [each[key] for each in told[: LAYOUTS[name][0]]]


@pytest.mark.parametrize(("before", "after"), CELLS, ids=str)
def test_any_goes_on_from_what_any_saved(told: list[dict[Any, Told]], before: str, after: str) -> None:
    ranks, unbroken = of(told, (before, after)), of(told, before)
    assert [each["differing"] for each in ranks] == [[]] * len(ranks), "all is taken, to the last bit"
    assert ranks[0]["seen"].losses == pytest.approx(unbroken[0]["seen"].losses[2:], rel=CLOSE)
    for kind, tolerance in (("weights", CLOSE), ("ema", CLOSE), ("optimizer", DRIFTED)):
        found, wanted = (whole([kept(each["seen"], kind) for each in some]) for some in (ranks, unbroken))
        error, name = apart(found, wanted)
        assert error < tolerance, f"{kind}: {name}: {error}"
        assert error == 0 or before != after, f"{kind}: {name}: the same layout goes on to the last bit"
    if before == after:
        assert ranks[0]["seen"].losses == unbroken[0]["seen"].losses[2:]


def kept(seen: Seen, kind: str) -> Any:
    return seen.shadows[kind] if kind == "ema" else getattr(seen, kind)


@pytest.mark.parametrize(("before", "after"), CELLS, ids=str)
def test_each_sample_is_learned_from_once_across_the_change(
    told: list[dict[Any, Told]], before: str, after: str
) -> None:
    ranks = [(each, 0, 2) for each in of(told, before)] + [(each, 0, 2) for each in of(told, (before, after))]
    replicas = {
        (number >= LAYOUTS[before][0], each["replica"]): each["drawn"][a:b] for number, (each, a, b) in enumerate(ranks)
    }
    keys = [key for drawn in replicas.values() for step in drawn for key in step]
    wanted = sorted(
        key for each in {e["replica"]: e for e in of(told, "single")}.values() for s in each["drawn"] for key in s
    )
    assert len(wanted) == len(set(wanted)) == 4 * CASE.batch
    assert sorted(keys) == wanted
