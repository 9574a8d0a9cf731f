"""The order of samples: shards in the order of the epoch, so many at a time, and their samples mixed.

What is in a shard is known once it was looked into, and whether it can be, depends on a network. So each window has a
verdict, which shards it has and how many samples each: who comes first, of the ranks of a run, writes it into the run's
folder, and all others, and every resume, keep to it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np
from attrs import frozen

from qi_core.errors import QiError
from qi_core.shuffling import number_of, order_of, permutation


@frozen
class Windows:
    """Which shards come when."""

    seed: int
    shards: int
    width: int
    """Shards at a time."""

    def __len__(self) -> int:
        """In an epoch."""
        return -(-self.shards // self.width)

    def shards_of(self, epoch: int, window: int) -> list[int]:
        """Numbers of shards, in their order."""
        order = order_of(self.seed, epoch, self.shards)
        return [int(order[at]) for at in range(window * self.width, min((window + 1) * self.width, self.shards))]

    def samples_of(self, epoch: int, window: int, counts: Sequence[int]) -> list[tuple[int, int]]:
        """(which shard of the window, which of its samples), mixed. ``counts``: samples of each shard."""
        ends = np.cumsum([0, *counts])
        order = permutation(number_of(f"{self.seed}/window {window}"), epoch, int(ends[-1]))
        which = np.searchsorted(ends, order, side="right") - 1
        return list(zip(which.tolist(), (order - ends[which]).tolist(), strict=True))


class Held(msgspec.Struct, frozen=True):
    """A shard of a window."""

    shard: str
    samples: int = 0
    """0: it is lost."""
    digest: int = 0
    reason: str = ""
    detail: str = ""


class Verdict(msgspec.Struct, frozen=True):
    """What a window has."""

    shards: list[Held]


def settled(folder: Path, name: str, mine: Callable[[], Verdict]) -> Verdict:
    """The verdict of that name: what is there, or else ``mine``, which is then what everybody keeps to."""
    path = folder / name
    found = _read(path)
    if found is not None:
        return found
    own = mine()
    beside = folder / f".{name}.{os.getpid()}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as file:
            file.write(msgspec.json.encode(own))
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(beside, path)  # fails where there is one already: the first one counts
            return own
        except FileExistsError:
            pass
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise QiError(
            f"{path}: what the window of shards has cannot be kept ({error.strerror}); see that the run's folder can "
            "be written, on a file system with hard links"
        ) from error
    there = _read(path)
    assert there is not None
    return there


def _read(path: Path) -> Verdict | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Verdict)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise QiError(
            f"{path}: cannot be read ({error}); it is written by qi alone: remove it and start again"
        ) from error
