"""Wrong stores are told what they break."""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
from attrs import evolve, frozen
from safetensors.torch import load as decode
from safetensors.torch import save as encode
from torch import Tensor

from qi_core import Checkpoint, Part, QiError, Team
from qi_core.team import Alone
from qi_core.testing import check_store

Parts = Mapping[str, Sequence[Part]]


class Folders:
    """A live store that keeps its contract, in the shortest way; what follows breaks it in one place each."""

    whole: float | None = None

    def __init__(self, folder: Path, team: Team) -> None:
        self.folder, self.team = folder / "steps", team
        self.folder.mkdir(exist_ok=True)

    def save(self, checkpoint: Checkpoint) -> Path:
        self.whole = None
        final = self.folder / f"{checkpoint.step}"
        parts = self.team.gather(checkpoint.parts)
        if self.team.rank == 0:
            self.keep(final, evolve(checkpoint, tensors={**checkpoint.tensors, **self.put_together(parts)}))
        self.whole = 0.1
        return self.team.send(final)

    def put_together(self, ranks: Sequence[Mapping[str, Parts]]) -> dict[str, dict[str, Tensor]]:
        found: dict[str, dict[str, Tensor]] = {}
        for rank in ranks:
            for group, names in rank.items():
                for name, parts in names.items():
                    for part in parts:
                        whole = found.setdefault(group, {}).setdefault(name, torch.full(part.shape, torch.nan))
                        whole[part.slices] = part.tensor
        return found

    def keep(self, final: Path, checkpoint: Checkpoint) -> None:
        beside = self.folder / ".beside"
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir()
        try:
            self.write(beside, checkpoint)
        except OSError as error:
            raise QiError(f"{final}: not saved ({error}); older ones are whole; make room") from error
        shutil.rmtree(final, ignore_errors=True)
        beside.rename(final)

    def wait(self) -> None:
        pass

    def took(self) -> float | None:
        return self.whole

    def write(self, path: Path, checkpoint: Checkpoint) -> None:
        for group, tensors in checkpoint.tensors.items():
            content = encode(self.kept(tensors))
            (path / f"{group}.tensors").write_bytes(content + zlib.crc32(content).to_bytes(4, "big"))
        about = {"state": checkpoint.state, "recipe": checkpoint.recipe, "groups": list(checkpoint.tensors)}
        (path / "about.json").write_text(json.dumps(about))

    def kept(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: tensors[name].contiguous() for name in tensors}

    def latest(self) -> int | None:
        return max((int(path.name) for path in self.folder.glob("[0-9]*")), default=None)

    def load(self, step: int | None = None) -> Checkpoint:
        step = self.latest() if step is None else step
        if step is None:
            raise QiError(f"{self.folder}: no checkpoint; one was wanted; start a run first")
        path = self.folder / f"{step}"
        about = json.loads((path / "about.json").read_text())
        tensors = {group: decode(self.read(path / f"{group}.tensors")) for group in about["groups"]}
        return Checkpoint(step=step, tensors=tensors, state=about["state"], recipe=about["recipe"])

    def read(self, path: Path) -> bytes:
        content = path.read_bytes()
        if zlib.crc32(content[:-4]).to_bytes(4, "big") != content[-4:]:
            raise QiError(f"{path}: damaged; a whole file was wanted; take another step")
        return content[:-4]


@frozen(kw_only=True)
class Store:
    kind: type[Folders] = Folders

    def build(self, folder: Path, team: Team | None = None) -> Folders:
        return self.kind(folder, team or Alone())


class InPlace(Folders):
    """Writes under the final name."""

    def save(self, checkpoint: Checkpoint) -> Path:
        final = self.folder / f"{checkpoint.step}"
        final.mkdir(exist_ok=True)
        try:
            self.write(final, checkpoint)
        except OSError as error:
            raise QiError(f"{final}: not saved ({error}); make room") from error
        return final


class Exchanges(Folders):
    """Makes room before it writes."""

    def write(self, path: Path, checkpoint: Checkpoint) -> None:
        for old in self.folder.glob("[0-9]*"):
            shutil.rmtree(old)
        super().write(path, checkpoint)


class Late(Folders):
    """Keeps what it was given, and writes it when it is waited for."""

    late: Checkpoint | None = None

    def save(self, checkpoint: Checkpoint) -> Path:
        self.late = checkpoint
        return self.folder / f"{checkpoint.step}"

    def wait(self) -> None:
        late, self.late = self.late, None
        if late is not None:
            super().save(late)


class OfOne(Folders):
    """Knows of rank 0 alone."""

    def put_together(self, ranks: Sequence[Mapping[str, Parts]]) -> dict[str, dict[str, Tensor]]:
        return super().put_together(ranks[:1])


class Rounds(Folders):
    def kept(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: tensor.float() for name, tensor in super().kept(tensors).items()}


class LosesEmpty(Folders):
    def kept(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: tensor for name, tensor in super().kept(tensors).items() if tensor.numel()}


class Trusts(Folders):
    """Does not look whether a file is what was written."""

    def read(self, path: Path) -> bytes:
        return path.read_bytes()[:-4]


class Remembers(Folders):
    """Knows the newest checkpoint only while the process lives."""

    newest: int | None = None

    def save(self, checkpoint: Checkpoint) -> Path:
        self.newest = checkpoint.step
        return super().save(checkpoint)

    def latest(self) -> int | None:
        return self.newest


@pytest.mark.parametrize(
    ("kind", "broken"),
    [
        (InPlace, "after a save on a full disk"),
        (Exchanges, r"after a save on a full disk latest\(\) is None, not 3"),
        (Rounds, "after a save the tensors of group model are not those that were saved"),
        (LosesEmpty, "the tensors of group model"),
        (Trusts, "one flipped bit in model.tensors was taken; QiError"),
        (Late, "after a save that training went on from at once the tensors of group model"),
        (OfOne, "after a save by two ranks the tensors of group model are not those"),
        (Remembers, r"after a save latest\(\) is None"),
    ],
)
def test_a_wrong_store_is_told(kind: type[Folders], broken: str) -> None:
    check_store(Store())
    with pytest.raises(AssertionError, match=broken):
        check_store(Store(kind=kind))


def test_a_store_that_a_kill_catches_halfway_is_told() -> None:
    """It undoes what a failed save has left, which a process that is killed cannot."""

    class Undoes(InPlace):
        def save(self, checkpoint: Checkpoint) -> Path:
            final = self.folder / f"{checkpoint.step}"
            kept = self.folder / ".kept"
            if final.exists():
                final.rename(kept)
            try:
                return super().save(checkpoint)
            except QiError:
                shutil.rmtree(final)
                if kept.exists():
                    kept.rename(final)
                raise

    with pytest.raises(
        AssertionError, match=r"Store\.latest: after a process died while it was saving latest\(\) is 12"
    ):
        check_store(Store(kind=Undoes))


def test_the_limit_on_files_is_lifted_again(tmp_path: Path) -> None:
    check_store(Store())
    (tmp_path / "large").write_bytes(bytes(100_000))
