"""All rows that are known: of shards here and of shards that mirrors have, in as few runs as possible."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from qi_core.cache import merging
from qi_core.cache.index import Damaged, Entry, Run, halves
from qi_core.cache.manifest import Shard
from qi_core.cache.shards import INDEX


class Catalogue:
    """The runs of a folder. Not for several threads at once: the shelf's lock is held."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._merged = folder, folder / "merged"
        self.order: dict[str, int] = {}
        """Of the shards of this folder: which was published first."""
        self._runs: list[Run] = []
        self._covered: set[str] = set()
        self._may_merge = True
        for run in merging.opened(self._merged):
            self._take(run)

    def _take(self, run: Run) -> None:
        if self._covered.isdisjoint(run.shards):
            self._runs.append(run)
            self._covered.update(run.shards)
        else:
            run.close()

    def update(self, live: Mapping[str, Shard], elsewhere: Callable[[str], bool]) -> list[str]:
        """Take in the shards that are new. Gives those whose index can't be read."""
        broken: list[str] = []
        for name in live:  # those too whose rows a merged run has
            self.order.setdefault(name, len(self.order))
        for name in [name for name in live if name not in self._covered]:
            if not self.add(self._folder / f"{name}{INDEX}", live[name]):
                broken.append(name)
        self._merge(lambda name: name in live or elsewhere(name))
        return broken

    def has(self, name: str) -> bool:
        """Whether its rows are known."""
        return name in self._covered

    def add(self, path: Path, shard: Shard) -> bool:
        """Take in the rows of one shard. False if they are not what they should be."""
        try:
            run = Run(path)
        except (Damaged, OSError):
            return False
        if run.shards != (shard.name,) or run.count != shard.entries:
            run.close()
            return False
        self._take(run)
        return True

    def find(self, ids: Sequence[bytes]) -> list[list[Entry]]:
        """For each id its entries in all shards, those that are gone included."""
        found: list[list[Entry]] = [[] for _ in ids]
        if not ids:
            return found
        highs, lows = halves(ids)
        for run in list(self._runs):
            try:
                for own, more in zip(found, run.find(highs, lows), strict=True):
                    own += more
            except (Damaged, OSError):
                self._drop(run)
                with suppress(OSError):
                    run.path.unlink(missing_ok=True)
        return found

    def _drop(self, run: Run) -> None:
        self._runs.remove(run)
        self._covered.difference_update(run.shards)
        run.close()

    def _merge(self, wanted: Callable[[str], bool]) -> None:
        """As long as there are too many runs of one size, unless another process does it."""
        while self._may_merge and (some := merging.due(self._runs)):
            try:
                if self._adopt():
                    continue
                path = merging.merge(self._merged, some, wanted)
                if path is None:
                    return
                run = Run(path)
            except (Damaged, OSError):
                self._may_merge = False  # all is found as it is, only slower; the next start tries again
                return
            for old in some:
                self._drop(old)
            self._take(run)

    def _adopt(self) -> bool:
        """Take runs that another process has merged, in place of those that they were made of."""
        changed = False
        for run in merging.opened(self._merged):
            shards = set(run.shards)
            inside = [own for own in self._runs if shards.issuperset(own.shards)]
            rest = self._covered.difference(*(own.shards for own in inside))
            if len(inside) > 1 and rest.isdisjoint(shards):
                for own in inside:
                    self._drop(own)
                self._take(run)
                changed = True
            else:
                run.close()
        return changed

    def close(self) -> None:
        """Close all files."""
        for run in self._runs:
            run.close()
        self._runs = []
