"""The store "folder" and several ranks: each writes its own, all are told what hinders one, anybody reads it whole."""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qi_core import Checkpoint, Part, QiError
from qi_core.errors import LostError
from qi_core.team import Alone, join
from qi_core.tensorfiles import Stamp, StoredTensors, write
from qi_core.testing.team import Thread, together
from qi_plugins.store_folder import store as module
from qi_plugins.store_folder.component import Folder
from qi_plugins.store_folder.outgoing import Pinned, Room, outgoing
from support import ranks as processes

RANKS = 3


def whole(step: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(step)
    names = {f"copied.{n}": (4,) for n in range(12)} | {"rows": (7, 2), "flat": (5, 4), "mine": (3,)}
    return {name: torch.randn(shape, generator=generator) for name, shape in names.items()}


def box(tensor: Tensor, *slices: slice) -> Part:
    return Part(tensor=tensor[slices], shape=tuple(tensor.shape), offsets=tuple(each.start for each in slices))


def held(step: int, rank: int) -> Checkpoint:
    """What one of three ranks holds: a copy of some, uneven rows, a flat range in up to three boxes, one all alone."""
    tensors = whole(step)
    rows, flat, every = tensors["rows"], tensors["flat"], slice(0, 4)
    cuts: list[tuple[Part, ...]] = [
        (box(flat, slice(0, 1), every), box(flat, slice(1, 2), slice(0, 3))),
        (box(flat, slice(1, 2), slice(3, 4)), box(flat, slice(2, 3), every), box(flat, slice(3, 4), slice(0, 1))),
        (box(flat, slice(3, 4), slice(1, 4)), box(flat, slice(4, 5), every)),
    ]
    own: dict[str, tuple[Part, ...]] = {
        name: (Part(tensor=tensor, shape=(4,), offsets=(0,), copy=rank, copies=RANKS),)
        for name, tensor in tensors.items()
        if name.startswith("copied")
    }
    own["rows"] = (box(rows, (slice(0, 3), slice(3, 6), slice(6, 7))[rank], slice(0, 2)),)
    own["flat"] = cuts[rank]
    own["mine"] = (box(tensors["mine"], slice(0, 3)),) if rank == 1 else ()
    parts = {"model": own, "ema": own, "source": {}}
    return Checkpoint(step=step, tensors={}, state={"at": step}, recipe="", parts=parts)


def save(folder: Path, step: int, **settings: Any) -> list[Exception | None]:
    """By three ranks at once; what each of them raised."""

    def work(team: Thread) -> None:
        store = Folder(**settings).build(folder, team)
        store.save(held(step, team.rank))
        store.wait()

    return together(RANKS, work)


def expect(folder: Path, step: int) -> None:
    found = Folder().build(folder).load()
    assert found.step == step
    assert found.state == {"at": step}
    for group in ("model", "ema"):
        tensors = found.tensors[group]
        assert tensors.keys() == whole(step).keys()
        assert all(torch.equal(tensors[name], tensor) for name, tensor in whole(step).items())
    assert found.tensors["source"] == {}


@pytest.mark.parametrize("background", [True, False])
def test_each_rank_writes_its_own_and_one_that_is_alone_reads_all(tmp_path: Path, background: bool) -> None:
    assert save(tmp_path, 4, background=background) == [None] * RANKS
    expect(tmp_path, 4)
    path = tmp_path / "checkpoints/step-00000004"
    assert sorted(file.name for file in (path / "ema").iterdir()) == [
        "rank-00000-of-00003-box-2.safetensors",
        "rank-00000-of-00003.safetensors",
        "rank-00001-of-00003-box-2.safetensors",
        "rank-00001-of-00003-box-3.safetensors",
        "rank-00001-of-00003.safetensors",
        "rank-00002-of-00003-box-2.safetensors",
        "rank-00002-of-00003.safetensors",
    ]
    shares = [copied(path / f"ema/rank-{rank:05d}-of-00003.safetensors") for rank in range(RANKS)]
    assert sum(shares) == 12
    assert all(shares), "copies are written by all, each one once"


def copied(path: Path) -> int:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return sum(name.startswith("copied") for name in file.keys())  # noqa: SIM118 (the reader is no dict)


def test_big_groups_are_divided_further(tmp_path: Path) -> None:
    assert save(tmp_path, 4, shard_bytes=50) == [None] * RANKS
    expect(tmp_path, 4)
    assert list(tmp_path.rglob("model/rank-00001-of-00003-00001-of-*.safetensors"))


def test_the_same_step_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        assert save(tmp_path / name, 4) == [None] * RANKS
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("rank", range(RANKS))
def test_what_hinders_one_is_told_on_all_and_what_was_there_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: int
) -> None:
    assert save(tmp_path, 4) == [None] * RANKS

    def full(path: Path, chunks: Iterator[bytes | memoryview]) -> Stamp:
        if path.name.startswith(f"rank-{rank:05d}"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, chunks)

    monkeypatch.setattr(module, "write", full)
    for error in save(tmp_path, 5):
        assert isinstance(error, QiError)
        assert str(error).startswith(f"rank {rank} of 3: {tmp_path}/checkpoints: the checkpoint was not saved")
        assert "the disk is full; older checkpoints are whole; make room" in str(error)
    assert os.listdir(tmp_path / "checkpoints") == ["step-00000004"]
    expect(tmp_path, 4)


@pytest.mark.parametrize("name", ["state.json", "checkpoint.json"])
def test_so_is_what_hinders_rank_0_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def full(path: Path, chunks: Iterator[bytes | memoryview]) -> Stamp:
        if path.name == name:
            raise OSError(errno.EIO, "the disk is broken")
        return write(path, chunks)

    monkeypatch.setattr(module, "write", full)
    assert all("not saved ([Errno 5] the disk is broken)" in str(error) for error in save(tmp_path, 5))
    assert os.listdir(tmp_path / "checkpoints") == []


def test_a_rank_that_does_not_see_the_folder_says_so(tmp_path: Path) -> None:
    """As on machines that share no disk."""

    def elsewhere(team: Thread) -> None:
        store: Any = Folder(background=False).build(tmp_path, team)
        first = store._first
        if team.rank == 2:
            store._first = lambda team, act: first(team, act) and Path("/nowhere/x")
        store.save(held(5, team.rank))

    for error in together(RANKS, elsewhere):
        assert "rank 2 of 3: /nowhere/x: rank 0 made it, but it is not here; put the run on a disk that all" in str(
            error
        )


def test_a_rank_that_is_lost_is_told(tmp_path: Path) -> None:
    assert save(tmp_path, 4) == [None] * RANKS

    def work(team: Thread) -> None:
        if team.rank == 1:
            raise ValueError("gone")
        Folder(background=False).build(tmp_path, team).save(held(5, team.rank))

    first, gone, last = together(RANKS, work)
    assert isinstance(gone, ValueError)
    for error in (first, last):
        assert isinstance(error, LostError)
        assert "a rank was lost while the checkpoint of step 5 was written" in str(error)
    expect(tmp_path, 4)
    assert os.listdir(tmp_path / "checkpoints") == ["step-00000004"]


@pytest.mark.parametrize("damage", ["missing", "a bit"])
def test_a_damaged_file_of_a_rank_is_named_on_every_rank(tmp_path: Path, damage: str) -> None:
    for step in (3, 4):
        assert save(tmp_path, step) == [None] * RANKS
    file = tmp_path / "checkpoints/step-00000004/model/rank-00002-of-00003.safetensors"
    if damage == "missing":
        file.unlink()
    else:
        values = bytearray(file.read_bytes())
        values[-1] ^= 1
        file.write_bytes(values)
    for error in together(2, lambda team: Folder().build(tmp_path, team).load()):
        assert isinstance(error, QiError)
        assert str(error).startswith(f"{file}: ")
        assert "the checkpoint of step 3 is whole: remove" in str(error)


def test_what_a_group_of_writers_left_is_swept_once_all_of_them_are_gone(tmp_path: Path) -> None:
    store: Any = Folder().build(tmp_path)
    left = tmp_path / "checkpoints/.writing-step-00000001-1"
    left.mkdir(parents=True)
    with store._locked(left):  # rank 0 is gone, another still writes
        store.save(Checkpoint(step=1, tensors={}, state={}, recipe=""))
        assert left.exists()
    store.save(Checkpoint(step=2, tensors={}, state={}, recipe=""))
    assert not left.exists()


def test_a_checkpoint_of_version_1_loads(tmp_path: Path) -> None:
    """All its files lay beside each other."""
    tensors = whole(1)
    path = Folder().build(tmp_path).save(Checkpoint(step=1, tensors={"model": tensors}, state={"a": 1}, recipe="x"))
    shutil.move(path / "model/model.safetensors", path / "model.safetensors")
    (path / "model").rmdir()
    manifest = json.loads((path / "checkpoint.json").read_text().replace("model/model", "model"))
    (path / "checkpoint.json").write_text(json.dumps(manifest | {"version": 1}))
    found = Folder().build(tmp_path).load()
    assert all(torch.equal(found.tensors["model"][name], tensor) for name, tensor in tensors.items())


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()

    def slow(path: Path, chunks: Iterator[bytes | memoryview]) -> Stamp:
        assert go_on.wait(60)
        return write(path, chunks)

    monkeypatch.setattr(module, "write", slow)
    store = Folder().build(tmp_path, Alone())
    weights = torch.ones(3)
    store.save(Checkpoint(step=1, tensors={"model": {"w": weights}}, state={}, recipe=""))
    weights.zero_()
    assert store.took() is None
    assert store.latest() is None, "nothing counts before it is whole"
    go_on.set()
    store.wait()
    assert store.took() is not None
    assert torch.equal(store.load().tensors["model"]["w"], torch.ones(3))


def test_an_error_in_the_background_is_told_once_by_what_comes_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, chunks: Iterator[bytes | memoryview]) -> Stamp:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "write", full)
    store = Folder().build(tmp_path, Alone())
    one = Checkpoint(step=1, tensors={"model": {"w": torch.ones(3)}}, state={}, recipe="")
    store.save(one)
    with pytest.raises(QiError, match="the disk is full"):
        store.save(one)
    store.wait()
    assert os.listdir(tmp_path / "checkpoints") == []


def test_what_is_on_the_disk_is_not_copied(tmp_path: Path) -> None:
    """A checkpoint of a released model's weights would not fit into memory."""
    path = Folder().build(tmp_path / "a").save(Checkpoint(step=1, tensors={"m": whole(1)}, state={}, recipe=""))
    stored, reads = StoredTensors([path / "m/m.safetensors"]), list[str]()

    class Counted(StoredTensors):
        def __getitem__(self, name: str) -> Tensor:
            reads.append(name)
            return super().__getitem__(name)

    counted = Counted([path / "m/m.safetensors"])
    store = Folder().build(tmp_path / "b", Alone())
    store.save(Checkpoint(step=1, tensors={"m": counted}, state={}, recipe=""))
    store.wait()
    assert sorted(reads) == sorted(stored), "each is read once, when it is written"


def test_room_is_kept_for_what_is_saved_again_and_for_no_more() -> None:
    """A rollout has other names than the one before."""
    room = Room()
    kept: list[Tensor] = []
    for names in (("a", "b"), ("b", "c")):
        tensors = {"source": {name: torch.ones(3) for name in names}}
        files = room.copied(outgoing(Checkpoint(step=1, tensors=tensors, state={}, recipe=""), 0, 1, 1000))
        kept += [files[0].tensors[name] for name in names]
    assert kept[1] is kept[2]
    assert room.nbytes == 2 * 3 * 4


def test_room_that_is_asked_for_at_once_holds_tensors_of_all_kinds() -> None:
    memory = Pinned(pin=False)
    tensors = [torch.ones(3, dtype=torch.bool), torch.tensor(2.0), torch.empty(0, 4), torch.arange(6).reshape(2, 3)]
    rooms = [memory.like(tensor).copy_(tensor) for tensor in tensors]
    assert all(
        torch.equal(room, tensor) and room.dtype == tensor.dtype for room, tensor in zip(rooms, tensors, strict=True)
    )


# What torch.distributed.checkpoint writes and reads.


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
@pytest.mark.parametrize("ranks", [1, RANKS])
def test_its_reader_reads_ours(tmp_path: Path, ranks: int) -> None:
    import torch.distributed.checkpoint as dcp

    if ranks == 1:
        Folder().build(tmp_path).save(Checkpoint(step=4, tensors={"model": whole(4)}, state={}, recipe=""))
    else:
        assert save(tmp_path, 4) == [None] * RANKS
    found = {name: torch.zeros_like(tensor) for name, tensor in whole(4).items()}
    reader = dcp.HuggingFaceStorageReader(str(tmp_path / "checkpoints/step-00000004/model"))
    dcp.load(found, storage_reader=reader)
    assert all(torch.equal(found[name], tensor) for name, tensor in whole(4).items())


def theirs(folder: str) -> None:
    import torch.distributed.checkpoint as dcp
    from torch.distributed.fsdp import fully_shard

    join(torch.device("cpu"), 60)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 3))
    fully_shard(model, mesh=torch.distributed.init_device_mesh("cpu", (2,)))
    dcp.save(model.state_dict(), storage_writer=dcp.HuggingFaceStorageWriter(folder, save_distributed=True))


@pytest.mark.slow
def test_we_read_what_its_writer_writes(tmp_path: Path) -> None:
    processes.together(2, theirs, str(tmp_path), preload=("torch.distributed.checkpoint",))
    torch.manual_seed(0)
    wanted = nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 3)).state_dict()
    found = StoredTensors(sorted(tmp_path.glob("*.safetensors")))
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())
