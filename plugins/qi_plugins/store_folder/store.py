"""The store "folder" at work.

A checkpoint is written into a folder of another name, each file flushed to the disk, the manifest last; then the
folder is renamed. So a folder called ``step-...`` was whole when it got its name, whatever killed the process.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from attrs import asdict, frozen

from qi_core import Checkpoint, QiError
from qi_core.tensorfiles import Stamp, StoredTensors, forms, safetensors, shards, stamp, sync_folder, write

FORMAT = "qi-checkpoint"
VERSION = 1
MANIFEST = "checkpoint.json"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NAME = re.compile(r"step-(\d+)(\.old)?")


@frozen(kw_only=True)
class Manifest:
    """``checkpoint.json``: what belongs to a checkpoint, and how each file looks when it is whole."""

    step: int
    groups: Mapping[str, tuple[str, ...]]
    """Group of tensors -> its files."""
    files: Mapping[str, Stamp]

    def text(self) -> str:
        return json.dumps({"format": FORMAT, "version": VERSION} | asdict(self), indent=1) + "\n"

    @staticmethod
    def read(path: Path) -> Manifest:
        """Raises QiError if it isn't there or not one of ours."""
        try:
            raw = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
            if raw["format"] != FORMAT:
                raise ValueError(f"format {raw['format']!r}, {FORMAT!r} was wanted")
            if raw["version"] != VERSION:
                raise QiError(
                    f"{path / MANIFEST}: version {raw['version']}; this qi reads version {VERSION}; "
                    "use the qi that wrote it"
                )
            return Manifest(
                step=raw["step"],
                groups={group: tuple(files) for group, files in raw["groups"].items()},
                files={name: Stamp(**value) for name, value in raw["files"].items()},
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise QiError(f"{path / MANIFEST}: no manifest of a checkpoint ({error}); take another step") from error


class FolderStore:
    """See ``qi_core.store.Store``."""

    def __init__(self, folder: Path, *, keep: int, shard_bytes: int) -> None:
        self._folder = folder
        self._keep = keep
        self._shard_bytes = shard_bytes

    def save(self, checkpoint: Checkpoint) -> Path:
        final = self._folder / f"step-{checkpoint.step:08d}"
        with self._told():
            self._folder.mkdir(parents=True, exist_ok=True)
            self._sweep()
            with self._writing(final.name) as beside:
                self._fill(beside, checkpoint)
                sync_folder(beside)
                if (
                    final.exists()
                ):  # an older run of the same steps: it keeps its second name until the new one is there
                    self._drop(final.with_name(final.name + ".old"))
                    final.rename(final.with_name(final.name + ".old"))
                beside.rename(final)
            sync_folder(self._folder)
            self._prune(checkpoint.step)
        return final

    def wait(self) -> None:
        pass

    def latest(self) -> int | None:
        return max(self._whole(), default=None)

    def load(self, step: int | None = None) -> Checkpoint:
        """Every file is compared with its checksum first."""
        whole = self._whole()
        if not whole:
            raise QiError(f"{self._folder}: there is no whole checkpoint; one was wanted; start a run here first")
        step = max(whole) if step is None else step
        if step not in whole:
            there = ", ".join(map(str, sorted(whole)))
            raise QiError(f"{self._folder}: there is no whole checkpoint of step {step}; whole are those of {there}")
        path = whole[step]
        manifest = Manifest.read(path)
        if damage := next(_damages(path, manifest), None):
            raise QiError(f"{damage}; {self._advice(path, step, whole)}")
        return Checkpoint(
            step=manifest.step,
            tensors={group: StoredTensors([path / name for name in names]) for group, names in manifest.groups.items()},
            state=json.loads((path / "state.json").read_text(encoding="utf-8")),
            recipe=(path / "recipe.toml").read_text(encoding="utf-8"),
        )

    def _fill(self, folder: Path, checkpoint: Checkpoint) -> None:
        files: dict[str, Stamp] = {}
        groups: dict[str, tuple[str, ...]] = {}
        for group, tensors in checkpoint.tensors.items():
            written: list[str] = []
            known = forms(tensors)
            for name, part in shards(group, known, self._shard_bytes):
                files[name] = write(folder / name, safetensors(tensors, {each: known[each] for each in part}))
                written.append(name)
            groups[group] = tuple(written)
        state = json.dumps(dict(checkpoint.state), indent=1).encode() + b"\n"
        files["state.json"] = write(folder / "state.json", iter([state]))
        files["recipe.toml"] = write(folder / "recipe.toml", iter([checkpoint.recipe.encode()]))
        manifest = Manifest(step=checkpoint.step, groups=groups, files=files)
        write(folder / MANIFEST, iter([manifest.text().encode()]))

    def _whole(self) -> dict[int, Path]:
        """Step -> folder. Cheap: a manifest that can be read is the last thing that a writer writes."""
        if not self._folder.is_dir():
            return {}
        found: dict[int, Path] = {}
        for path in sorted(self._folder.iterdir()):  # "step-7" comes before "step-7.old"
            match = NAME.fullmatch(path.name)
            if match and (path / MANIFEST).is_file():
                with suppress(ValueError):
                    json.loads((path / MANIFEST).read_text(encoding="utf-8"))
                    found.setdefault(int(match[1]), path)
        return found

    def _advice(self, path: Path, step: int, whole: Mapping[int, Path]) -> str:
        """What to do about a damaged checkpoint."""
        for other in sorted(whole, reverse=True):
            if other != step and next(_damages(whole[other], Manifest.read(whole[other])), None) is None:
                return f"the checkpoint of step {other} is whole: remove {path} to go on from there"
        return f"no other checkpoint here is whole: bring back a copy of {path}, or start anew"

    @contextmanager
    def _writing(self, name: str) -> Iterator[Path]:
        """A folder to write into, locked while this process lives, removed if it wasn't renamed."""
        beside = self._folder / f".writing-{name}-{os.getpid()}"
        beside.mkdir()
        descriptor = os.open(beside, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield beside
        finally:
            shutil.rmtree(beside, ignore_errors=True)
            os.close(descriptor)

    def _sweep(self) -> None:
        """Remove what dead writers left. The system lets go of a lock when its process dies, however it dies."""
        for path in self._folder.glob(".writing-*"):
            descriptor = os.open(path, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path)
            except BlockingIOError:
                pass  # its writer lives
            finally:
                os.close(descriptor)
        for path in self._folder.glob(".gone-*"):
            shutil.rmtree(path)

    def _prune(self, saved: int) -> None:
        """Remove old checkpoints; never the one that was saved just now, even if there are later steps."""
        for path in self._folder.glob("step-*.old"):
            if path.with_name(path.name.removesuffix(".old")).exists():
                self._drop(path)
        others = sorted(self._whole().keys() - {saved}, reverse=True)
        for step in others[self._keep - 1 :] if self._keep else ():
            self._drop(self._whole()[step])

    def _drop(self, path: Path) -> None:
        """Remove a checkpoint: first its name, so that half of it is never taken for one."""
        if path.exists():
            gone = path.with_name(f".gone-{path.name}")
            path.rename(gone)
            shutil.rmtree(gone)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """The system's errors in the user's words."""
        try:
            yield
        except OSError as error:
            if error.errno in FULL:
                advice = (
                    f"the disk is full; older checkpoints are whole; make room or set store.keep below {self._keep}"
                )
            else:
                advice = "older checkpoints are whole; see to the folder's permissions and disk"
            raise QiError(f"{self._folder}: the checkpoint was not saved ({error}); {advice}") from error


def _damages(path: Path, manifest: Manifest) -> Iterator[str]:
    """What is wrong with the files of a checkpoint, one line each."""
    for name, wanted in manifest.files.items():
        try:
            found = stamp(path / name)
        except OSError as error:
            yield f"{path / name}: cannot be read ({error.strerror}); {wanted.bytes} bytes were wanted"
            continue
        if found != wanted:
            yield (
                f"{path / name}: damaged: {found.bytes} bytes with checksum {found.crc32}; "
                f"{wanted.bytes} bytes with {wanted.crc32} were wanted"
            )
