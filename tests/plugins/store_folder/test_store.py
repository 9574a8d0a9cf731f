"""The store "folder": a checkpoint is whole or not there, damage is told, old ones go when a new one is whole."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from qi_core import Checkpoint, QiError
from qi_core import tensorfiles as files
from qi_core.files import sync_folder
from qi_plugins.store_folder import qi_stores
from qi_plugins.store_folder.component import Folder


def checkpoint(step: int, *, size: int = 6) -> Checkpoint:
    generator = torch.Generator().manual_seed(step)
    weight = torch.randn(size, 4, generator=generator)
    return Checkpoint(
        step=step,
        tensors={"model": {"b.weight": weight, "a.bias": torch.ones(3)}, "optimizer": {"step/a": torch.tensor(7.0)}},
        state={"source": {"position": step}, "ema_updates": step, "text": "字"},
        recipe='name = "字"\n',
    )


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def same(loaded: Checkpoint, saved: Checkpoint) -> bool:
    return (
        (loaded.step, loaded.state, loaded.recipe) == (saved.step, saved.state, saved.recipe)
        and loaded.tensors.keys() == saved.tensors.keys()
        and all(
            loaded.tensors[group].keys() == tensors.keys()
            and all(torch.equal(loaded.tensors[group][name], tensor) for name, tensor in tensors.items())
            for group, tensors in saved.tensors.items()
        )
    )


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def in_another_process(code: str, *args: object) -> subprocess.CompletedProcess[str]:
    """Runs ``code`` with this module's names."""
    head = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); from test_store import *\n"
    command = [sys.executable, "-c", head + code, *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_the_hook_gives_it() -> None:
    assert qi_stores() == {"folder": Folder}


def test_what_is_loaded_is_what_was_saved(tmp_path: Path) -> None:
    store = Folder().build(tmp_path)
    assert store.save(checkpoint(100)) == tmp_path / "checkpoints" / "step-00000100"
    assert store.latest() == 100
    assert same(store.load(), checkpoint(100))
    assert names(tmp_path) == ["step-00000100"]


@pytest.mark.parametrize("dtype", files.NAMES, ids=str)
def test_every_dtype_and_shape_comes_back_and_others_can_read_it(tmp_path: Path, dtype: torch.dtype) -> None:
    values = torch.arange(24).reshape(2, 3, 4)
    tensors = {
        "plain": values.to(dtype),
        "not contiguous": values.to(dtype).transpose(0, 2),
        "scalar": values[1, 2, 3].to(dtype),
        "empty": values[:0].to(dtype),
        "a byte": torch.tensor([1], dtype=torch.uint8),
    }
    saved = Checkpoint(step=1, tensors={"model": tensors, "none": {}}, state={}, recipe="")
    path = Folder().build(tmp_path).save(saved)
    ours = Folder().build(tmp_path).load().tensors
    theirs = safetensors.torch.load_file(path / "model" / "model.safetensors")
    assert len(ours["none"]) == 0
    for name, tensor in tensors.items():
        for found in (ours["model"][name], theirs[name]):
            assert (found.dtype, found.shape) == (dtype if name != "a byte" else torch.uint8, tensor.shape)
            assert torch.equal(found.reshape(-1).view(torch.uint8), tensor.reshape(-1).contiguous().view(torch.uint8))


def test_the_same_checkpoint_gives_the_same_bytes(tmp_path: Path) -> None:
    one, two = checkpoint(3), checkpoint(3)
    turned = Checkpoint(
        step=3,
        tensors={group: dict(reversed(tensors.items())) for group, tensors in two.tensors.items()},
        state=two.state,
        recipe=two.recipe,
    )
    first, second = Folder().build(tmp_path / "a").save(one), Folder().build(tmp_path / "b").save(turned)
    assert content(first) == content(second)


def test_a_big_group_is_divided_over_files(tmp_path: Path) -> None:
    tensors = {f"{n}": torch.full((10,), float(n)) for n in range(5)} | {"big": torch.ones(100)}
    saved = Checkpoint(step=1, tensors={"model": tensors}, state={}, recipe="")
    path = Folder(shard_bytes=80).build(tmp_path).save(saved)
    shards = sorted(path.glob("model/*.safetensors"))
    assert [p.name for p in shards] == [f"model-0000{n}-of-00004.safetensors" for n in (1, 2, 3, 4)]
    assert list(safetensors.torch.load_file(shards[0])) == ["0", "1"]
    assert list(safetensors.torch.load_file(shards[3])) == ["big"]  # more than a file's share: one of its own
    assert same(Folder().build(tmp_path).load(), saved)


def test_a_save_holds_one_tensor_at_a_time(tmp_path: Path) -> None:
    """Tensors that are not in main memory are brought there one by one."""
    copies: weakref.WeakSet[Tensor] = weakref.WeakSet()
    alive: list[int] = []

    class Remote(Tensor):
        def cpu(self) -> Tensor:  # type: ignore[override]
            copy = self.as_subclass(Tensor).clone()
            copies.add(copy)
            alive.append(len(copies))
            return copy

    tensors = {f"{n}": torch.ones(10).as_subclass(Remote) for n in range(4)}
    Folder().build(tmp_path).save(Checkpoint(step=1, tensors={"model": tensors}, state={}, recipe=""))
    assert len(alive) == 4
    assert max(alive) <= 2  # the one that is fetched, and the one before it


def test_loading_leaves_no_file_open(tmp_path: Path) -> None:
    store = Folder().build(tmp_path)
    store.save(checkpoint(1))
    before = len(os.listdir("/proc/self/fd"))
    loaded = store.load()
    _ = [tensor.sum() for tensors in loaded.tensors.values() for tensor in tensors.values()]
    assert len(os.listdir("/proc/self/fd")) == before


def test_no_checkpoint_is_told(tmp_path: Path) -> None:
    store = Folder().build(tmp_path)
    assert store.latest() is None
    with pytest.raises(QiError, match="no whole checkpoint"):
        store.load()
    store.save(checkpoint(5))
    with pytest.raises(QiError, match="no whole checkpoint of step 4; whole are those of 5"):
        store.load(4)


@pytest.mark.parametrize(("keep", "kept"), [(1, [5]), (3, [3, 4, 5]), (0, [1, 2, 3, 4, 5])])
def test_the_newest_are_kept(tmp_path: Path, keep: int, kept: list[int]) -> None:
    store = Folder(keep=keep).build(tmp_path)
    for step in range(1, 6):
        store.save(checkpoint(step))
    assert names(tmp_path) == [f"step-{step:08d}" for step in kept]
    assert [store.load(step).step for step in kept] == kept


def test_what_was_saved_just_now_is_never_pruned(tmp_path: Path) -> None:
    Folder(keep=0).build(tmp_path).save(checkpoint(9))
    Folder(keep=1).build(tmp_path).save(checkpoint(5))
    assert names(tmp_path) == ["step-00000005"]


def test_a_step_can_be_saved_again(tmp_path: Path) -> None:
    store = Folder().build(tmp_path)
    store.save(checkpoint(5, size=2))
    store.save(checkpoint(5, size=3))
    assert same(store.load(), checkpoint(5, size=3))
    assert names(tmp_path) == ["step-00000005"]


def test_while_a_step_is_replaced_the_old_one_still_counts(tmp_path: Path) -> None:
    """The process dies between giving the old one its second name and the new one its first."""
    store = Folder().build(tmp_path)
    path = store.save(checkpoint(5))
    path.rename(path.with_name("step-00000005.old"))
    assert store.latest() == 5
    assert same(store.load(), checkpoint(5))
    store.save(checkpoint(5, size=2))
    assert names(tmp_path) == ["step-00000005"]


@pytest.mark.parametrize(
    "name", ["model/model.safetensors", "optimizer/optimizer.safetensors", "state.json", "recipe.toml"]
)
@pytest.mark.parametrize("damage", ["a bit", "its end", "all of it"])
def test_a_damaged_file_is_named_with_what_to_do(tmp_path: Path, name: str, damage: str) -> None:
    store = Folder().build(tmp_path)
    store.save(checkpoint(1))
    path = store.save(checkpoint(2)) / name
    values = bytearray(path.read_bytes())
    if damage == "a bit":
        values[-1] ^= 1
        path.write_bytes(values)
    elif damage == "its end":
        path.write_bytes(values[:-1])
    else:
        path.unlink()
    with pytest.raises(QiError, match=rf"step-00000002/{name}: .* step 1 is whole: remove .*step-00000002 to go on"):
        store.load()
    assert same(store.load(1), checkpoint(1))
    shutil.rmtree(tmp_path / "checkpoints" / "step-00000002")
    assert store.latest() == 1


def test_when_every_checkpoint_is_damaged_it_says_so(tmp_path: Path) -> None:
    store = Folder().build(tmp_path)
    for step in (1, 2):
        (store.save(checkpoint(step)) / "state.json").write_text("{}")
    with pytest.raises(QiError, match=r"step-00000002/state.json: damaged: .* no other checkpoint here is whole"):
        store.load()


@pytest.mark.parametrize("manifest", [None, "", '{"format": "qi-ch'])
def test_a_half_written_checkpoint_is_never_taken(tmp_path: Path, manifest: str | None) -> None:
    store = Folder().build(tmp_path)
    store.save(checkpoint(1))
    half = store.save(checkpoint(2)) / "checkpoint.json"
    half.unlink() if manifest is None else half.write_text(manifest)
    assert store.latest() == 1
    assert same(store.load(), checkpoint(1))


def test_a_checkpoint_of_a_later_format_is_told(tmp_path: Path) -> None:
    store = Folder().build(tmp_path)
    manifest = store.save(checkpoint(1)) / "checkpoint.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"version": 99}))
    with pytest.raises(QiError, match="version 99; this qi reads versions 1, 2; use the qi that wrote it"):
        store.load()


def test_a_writer_that_is_killed_leaves_nothing_that_counts_and_the_next_save_sweeps(tmp_path: Path) -> None:
    Folder().build(tmp_path).save(checkpoint(1))
    done = in_another_process(
        """
import os, signal
from qi_plugins.store_folder import store
whole = store.write
def killed(path, chunks):
    if path.name == "state.json":
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(path, chunks)
store.write = killed
Folder().build(Path(sys.argv[1])).save(checkpoint(2))
""",
        tmp_path,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    left = [name for name in names(tmp_path) if name.startswith(".writing-")]
    assert left, "the process was killed too late"
    store = Folder().build(tmp_path)
    assert store.latest() == 1
    store.save(checkpoint(3))
    assert names(tmp_path) == ["step-00000001", "step-00000003"]


def test_a_living_writer_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = Folder().build(tmp_path), Folder().build(tmp_path)
    whole = sync_folder
    nested: list[int] = []

    def meanwhile(path: Path) -> None:
        whole(path)
        if path.name.startswith(".writing-step-00000001"):
            two.save(checkpoint(2))
            nested.append(2)

    monkeypatch.setattr("qi_plugins.store_folder.store.sync_folder", meanwhile)
    one.save(checkpoint(1))
    assert nested == [2]
    assert names(tmp_path) == ["step-00000001", "step-00000002"]


FILL = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # then a write beyond the limit fails, as it does on a full disk
if sys.argv[2] == "limit":
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    Folder().build(Path(sys.argv[1])).save(checkpoint(2, size=200_000))
except QiError as error:
    print(error)
"""


def expect_full(folder: Path, done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stderr
    assert "the checkpoint was not saved" in done.stdout, done.stderr
    assert "the disk is full; older checkpoints are whole; make room" in done.stdout
    assert names(folder) == ["step-00000001"]
    assert same(Folder().build(folder).load(), checkpoint(1))


def test_a_file_that_cannot_grow_leaves_old_checkpoints_whole_and_nothing_behind(tmp_path: Path) -> None:
    Folder().build(tmp_path).save(checkpoint(1))
    expect_full(tmp_path, in_another_process(FILL, tmp_path, "limit"))


def test_a_full_disk_leaves_old_checkpoints_whole_and_nothing_behind(tmp_path: Path) -> None:
    """A disk of a megabyte where this machine lets us have one, else the disk says that it is full."""
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", tmp_path], capture_output=True)
    full = "def full(descriptor): raise OSError(28, 'No space left on device')\nos.fsync = full\n"
    pretend = full if mounted.returncode else ""
    try:
        Folder().build(tmp_path).save(checkpoint(1))
        expect_full(tmp_path, in_another_process(pretend + FILL, tmp_path, "disk"))
    finally:
        if not mounted.returncode:
            subprocess.run(["umount", tmp_path], check=True)


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file stands in the way")
    with pytest.raises(QiError, match=r"checkpoints: the checkpoint was not saved"):
        Folder().build(tmp_path).save(checkpoint(1))


def test_an_interrupted_save_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(path: Path) -> None:
        raise KeyboardInterrupt

    store = Folder().build(tmp_path)
    monkeypatch.setattr("qi_plugins.store_folder.store.sync_folder", interrupted)
    with pytest.raises(KeyboardInterrupt):
        store.save(checkpoint(1))
    assert names(tmp_path) == []


def test_files_and_folders_are_flushed_before_and_after_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def traced(name: str, real: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object) -> object:
            done.append(name)
            return real(*args)

        return call

    monkeypatch.setattr(os, "fsync", traced("fsync", os.fsync))
    monkeypatch.setattr(Path, "rename", traced("rename", Path.rename))
    Folder().build(tmp_path).save(checkpoint(1))
    # four files and the manifest, a folder each of two groups, the folder; the rename; the folder above
    assert done == ["fsync"] * 8 + ["rename", "fsync"]


def test_a_dtype_without_a_name_is_refused(tmp_path: Path) -> None:
    odd = Checkpoint(step=1, tensors={"model": {"w": torch.ones(2, dtype=torch.complex64)}}, state={}, recipe="")
    with pytest.raises(QiError, match=r"'w' is of torch.complex64"):
        Folder().build(tmp_path).save(odd)
    assert names(tmp_path) == []
