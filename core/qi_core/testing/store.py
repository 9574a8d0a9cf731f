"""The contract of stores."""

from __future__ import annotations

import resource
import shutil
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qi_core.shards import Part
from qi_core.store import Checkpoint, Store, StoreComponent
from qi_core.team import Alone
from qi_core.testing.contract import Contract, contract, place, same
from qi_core.testing.fakes import normal
from qi_core.testing.team import Thread, together

STATE: dict[str, Any] = {"source": {"n": 7, "parts": [1, 2]}, "name": "é 字", "float": 0.1, "none": None, "yes": True}
SMALL_DISK = 4096
"""Bytes that a file may have on the disk that is full."""


def check_store(component: StoreComponent) -> None:
    """``qi_core.store.Store``: what comes back is what was saved, to the bit; a save that fails or dies is none.

    Checked with full disks (a limit on the size of files), with a process that dies at any tensor (copies of the
    folder taken at that moment), with a damaged file, with training that goes on after ``save``, and with several ranks
    (threads of this process).
    """
    told = contract(component, "qi_core.store.Store.load")
    with place() as here:
        folder = here.folder / "run"
        folder.mkdir()
        store = component.build(folder)
        told.holds(store.latest() is None, "latest() of a new folder is not None")
        told.refuses("a folder without checkpoints", lambda: store.load())
        first, second = _checkpoint(3), _checkpoint(12)
        _save(store, first)
        _gives(told, component, folder, first, "after a save")
        _gives(told, component, folder, first, "asked for by its step,", step=3)
        _full(contract(component, "qi_core.store.Store.save"), component, folder, first)
        _dying(contract(component, "qi_core.store.Store.latest"), component, here.folder, first, second)
        _save(store, _checkpoint(12, seed=5))
        path = _save(store, second)
        _gives(told, component, folder, second, "after a save over a checkpoint of the same step")
        _damaged(told, component, folder, path)
        _going_on(contract(component, "qi_core.store.Store.save"), component, here.folder / "going on")
        _of_ranks(contract(component, "qi_core.store.Store.save"), component, here.folder / "ranks")


def _save(store: Store, checkpoint: Checkpoint) -> Path:
    path = store.save(checkpoint)
    store.wait()
    return path


class _Watched(Mapping[str, Tensor]):
    """Tensors by name; whenever one is read, the folder is copied as a dying process would leave it."""

    def __init__(self, tensors: Mapping[str, Tensor], folder: Path, copies: list[Path]) -> None:
        self._tensors, self._folder, self._copies = tensors, folder, copies

    def __getitem__(self, name: str) -> Tensor:
        left = self._folder.with_name(f"left-{len(self._copies)}")
        shutil.copytree(self._folder, left)
        self._copies.append(left)
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def _checkpoint(step: int, seed: int = 1) -> Checkpoint:
    """All that a tensor can be: precisions, whole numbers, a scalar, none at all, memory in another order."""
    model = {
        "blocks.0.weight": normal(40, 50, seed=seed + step),
        "blocks.0.turned": normal(6, 4, seed=seed + step).T,
        "half": normal(5, seed=seed).to(torch.bfloat16),
        "nothing": torch.empty(0, 3),
    }
    optimizer = {"step/half": torch.tensor(float(step)), "count/half": torch.tensor([1, 2**40])}
    return Checkpoint(
        step=step, tensors={"model": model, "optimizer": optimizer}, state=STATE | {"step": step}, recipe='a = "é字"\n'
    )


def _gives(
    told: Contract, component: StoreComponent, folder: Path, wanted: Checkpoint, when: str, step: int | None = None
) -> None:
    """A new store of the folder has exactly this."""
    store = component.build(folder)
    latest = store.latest()
    told.holds(latest == wanted.step, f"{when} latest() is {latest}, not {wanted.step}")
    found = store.load(step)
    told.holds(found.step == wanted.step, f"{when} the checkpoint is of step {found.step}, not {wanted.step}")
    for group, tensors in wanted.tensors.items():
        own = {name: found.tensors[group][name] for name in found.tensors.get(group, {})}
        told.holds(same(own, dict(tensors)), f"{when} the tensors of group {group} are not those that were saved")
    told.holds(found.tensors.keys() == wanted.tensors.keys(), f"{when} there are groups {list(found.tensors)}")
    told.holds(same(found.state, wanted.state), f"{when} the state is not the one that was saved")
    told.holds(found.recipe == wanted.recipe, f"{when} the recipe is not the one that was saved")


def _full(told: Contract, component: StoreComponent, folder: Path, kept: Checkpoint) -> None:
    store = component.build(folder)
    with _small_disk():
        told.refuses("a checkpoint that is too large for the disk", lambda: _save(store, _checkpoint(9)))
        told.refuses(
            "a checkpoint too large for the disk, of a step that is there,", lambda: _save(store, _checkpoint(3))
        )
    _gives(told, component, folder, kept, "after a save on a full disk")


def _dying(told: Contract, component: StoreComponent, home: Path, kept: Checkpoint, new: Checkpoint) -> None:
    folder, copies = home / "run", list[Path]()
    watched = {group: _Watched(tensors, folder, copies) for group, tensors in new.tensors.items()}
    dying = Checkpoint(step=new.step, tensors=watched, state=new.state, recipe=new.recipe)
    _save(component.build(folder), dying)
    for left in copies:
        _gives(told, component, left, kept, "after a process died while it was saving")
    _gives(told, component, folder, new, "after that save")


def _damaged(told: Contract, component: StoreComponent, folder: Path, path: Path) -> None:
    files = [file for file in (path.rglob("*") if path.is_dir() else (path,)) if file.is_file()]
    if not path.is_relative_to(folder) or not files:  # kept elsewhere: out of reach
        return
    largest = max(files, key=lambda file: file.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[-len(content) // 3] ^= 0x10
    largest.write_bytes(content)

    def read() -> None:
        for tensors in component.build(folder).load().tensors.values():
            for name in tensors:
                tensors[name]

    told.refuses(f"a checkpoint with one flipped bit in {largest.name}", read)


def _going_on(told: Contract, component: StoreComponent, folder: Path) -> None:
    """In a run tensors change as soon as ``save`` is back; errors come from it or from ``wait``, and one that is told
    is done with."""
    folder.mkdir()
    store = component.build(folder, Alone())
    kept = _checkpoint(3)
    training = {group: {name: t.clone() for name, t in tensors.items()} for group, tensors in kept.tensors.items()}
    store.save(Checkpoint(step=3, tensors=training, state=kept.state, recipe=kept.recipe))
    for tensors in training.values():
        for tensor in tensors.values():
            tensor.zero_()
    store.wait()
    told.holds(store.took() is not None, "after wait() took() is None")
    _gives(told, component, folder, kept, "after a save that training went on from at once")
    with _small_disk():
        told.refuses("a checkpoint that is too large for the disk", lambda: _save(store, _checkpoint(9)))
    told.holds(store.took() is None, "after a save that failed took() is not None")
    _gives(told, component, folder, kept, "after a save on a full disk, in a run,")
    _save(store, _checkpoint(12))
    _gives(told, component, folder, _checkpoint(12), "after a save that followed one that failed")


def _of_ranks(told: Contract, component: StoreComponent, folder: Path) -> None:
    """Two ranks, with rows of one tensor each and a copy each of another; a reader that is alone has whole tensors."""
    folder.mkdir()
    model = {"model": {"rows": normal(5, 3, seed=1), "both": normal(4, seed=2)}}
    whole = Checkpoint(step=5, tensors=model, state=STATE, recipe="")

    def work(team: Thread) -> None:
        model, mine = whole.tensors["model"], slice(0, 2) if team.rank == 0 else slice(2, 5)
        rows = Part(tensor=model["rows"][mine], shape=(5, 3), offsets=(mine.start, 0))
        both = Part(tensor=model["both"], shape=(4,), offsets=(0,), copy=team.rank, copies=2)
        own = {"model": {"rows": (rows,), "both": (both,)}}
        _save(component.build(folder, team), Checkpoint(step=5, tensors={}, state=STATE, recipe="", parts=own))

    errors = [error for error in together(2, work) if error is not None]
    told.holds(not errors, f"two ranks cannot save together ({errors})")
    _gives(told, component, folder, whole, "after a save by two ranks")


@contextmanager
def _small_disk() -> Generator[None]:
    """Writing more than 4 KiB to a file fails, as on a full disk. Python ignores the signal that comes with it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SMALL_DISK, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
