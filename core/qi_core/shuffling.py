"""Endless passes over entries that lie there: an order for every epoch, a pool of threads, a position to save."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, Literal, Protocol, TypeVar

import numpy as np
from attrs import frozen

from qi_core.errors import QiError
from qi_core.pixels import Unusable, prepare
from qi_core.skipped import Skip, Skipped

_AT_ONCE = 4096  # entries handed to the pool together: bounds what a set of millions holds in flight
_PATIENCE = 1000  # unusable entries in a row after which something larger must be wrong (a disk that is gone)


class Keyed(Protocol):
    """An entry of a data set: where something is, before it is opened."""

    @property
    def key(self) -> str: ...


E = TypeVar("E", bound=Keyed)
M = TypeVar("M")


@frozen(kw_only=True)
class Fingerprint:
    """Tells whether a data set is the one of the checkpoint."""

    keys: str
    """Which samples there are."""
    contents: str
    """The same with captions and sizes."""

    @staticmethod
    def of(found: Sequence[tuple[str, bytes]]) -> Fingerprint:
        """Of keys, each with a digest of what it stands for."""
        keys, contents = hashlib.blake2b(digest_size=16), hashlib.blake2b(digest_size=16)
        for key, digest in found:
            name = key.encode("utf-8", "surrogatepass") + b"\n"
            keys.update(name)
            contents.update(name + digest)
        return Fingerprint(keys=keys.hexdigest(), contents=contents.hexdigest())


class Deck(Generic[E]):
    """The order of one data set and the place in it: position p of epoch e is one entry of that epoch's permutation.

    Entries that prove broken are remembered and passed over from then on.
    """

    def __init__(
        self,
        *,
        where: str,
        entries: Sequence[E],
        fingerprint: Fingerprint,
        seed: int,
        skip: Skip,
        changed: Literal["refuse", "next-epoch"],
    ) -> None:
        """``where``: what messages call it, such as ``source.path = 'photos'``."""
        self._where, self._entries, self._fingerprint = where, entries, fingerprint
        self._seed, self._skip, self._changed = seed, skip, changed
        self._epoch = self._index = 0
        self._order = permutation(seed, 0, len(entries))
        self._broken: dict[int, str] = {}
        """Reasons of entries that were found unusable after the scan, by number."""

    def __getitem__(self, number: int) -> E:
        return self._entries[number]

    def next(self) -> tuple[int, int]:
        """Epoch and number of the next entry not known to be broken. Raises QiError when all are."""
        if len(self._broken) == len(self._entries):
            reasons = ", ".join(f"{count} {reason}" for reason, count in self.broken().most_common(3))
            raise QiError(f"{self._where}: no usable sample is left ({reasons}); check the data")
        while True:
            if self._index == len(self._entries):
                self._epoch, self._index = self._epoch + 1, 0
                self._order = permutation(self._seed, self._epoch, len(self._entries))
            number = int(self._order[self._index])
            self._index += 1
            if number not in self._broken:
                return self._epoch, number

    def lose(self, number: int, error: Unusable, in_a_row: int) -> None:
        """An entry proved broken. Raises QiError if so many have ``in_a_row`` that the cause must be another."""
        if number not in self._broken:
            self._broken[number] = error.reason
            self._skip(self._entries[number].key, error.reason, error.detail)
        if in_a_row == _PATIENCE:
            raise QiError(
                f"{self._where}: {in_a_row} samples in a row could not be used, the last because {error.reason} "
                f"({error.detail}); check that the data is still there"
            )

    def broken(self) -> Counter[str]:
        """How many were found unusable after the scan, by reason."""
        return Counter(list(self._broken.values()))  # a list at once: another thread may be adding to it

    def state_dict(self) -> dict[str, Any]:
        return {
            "epoch": self._epoch,
            "index": self._index,
            "samples": len(self._entries),
            "keys": self._fingerprint.keys,
            "contents": self._fingerprint.contents,
            "broken": [[number, reason] for number, reason in self._broken.items()],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a position. Raises QiError if the data is not what it was and ``changed`` refuses that."""
        same_keys = state["keys"] == self._fingerprint.keys
        if state["contents"] != self._fingerprint.contents and self._changed == "refuse":
            what = "captions or pictures are others" if same_keys else f"now {len(self._entries)}, not all the same"
            raise QiError(
                f"{self._where}: the data changed since the checkpoint ({state['samples']} usable "
                f"samples then, {what}); put it back, or set source.changed = 'next-epoch' to go on with what is there"
            )
        if same_keys:
            self._epoch, self._index = state["epoch"], state["index"]
            self._broken = dict(state["broken"])
        else:  # the place in an order of other samples means nothing
            self._epoch, self._index, self._broken = state["epoch"] + 1, 0, {}
        self._order = permutation(self._seed, self._epoch, len(self._entries))


def deal(wanted: Sequence[tuple[Deck[E], int]], make: Callable[[E, int], M], pool: ThreadPoolExecutor) -> list[list[M]]:
    """So many samples of each deck, in the order of its entries, all made side by side in the pool's threads.

    ``make`` makes the sample of an entry in an epoch and raises Unusable if that can't be. Raises QiError when nothing
    usable is left.
    """

    def made(place: tuple[int, int, int]) -> M | Unusable:
        at, epoch, number = place
        try:
            return make(wanted[at][0][number], epoch)
        except Unusable as error:
            return error

    hands: list[list[M]] = [[] for _ in wanted]
    lost = [0] * len(wanted)
    while True:
        # As many as are missing and no more, so that a position does not depend on the size of batches.
        places = [(at, *deck.next()) for at, (deck, count) in enumerate(wanted) for _ in range(count - len(hands[at]))]
        if not places:
            return hands
        for (at, _, number), sample in zip(places, pool.map(made, places), strict=True):
            if isinstance(sample, Unusable):
                lost[at] += 1
                wanted[at][0].lose(number, sample, lost[at])
            else:
                hands[at].append(sample)
                lost[at] = 0


class Shuffled(Generic[E, M]):
    """Endless passes over one data set.

    ``make`` makes the sample of an entry in an epoch, in a thread of the pool; it raises Unusable if that can't be.
    """

    def __init__(
        self,
        *,
        path: str,
        entries: Sequence[E],
        fingerprint: Fingerprint,
        make: Callable[[E, int], M],
        seed: int,
        skipped: Skipped,
        changed: Literal["refuse", "next-epoch"],
        workers: int,
    ) -> None:
        self._deck = Deck(
            where=f"source.path = {path!r}",
            entries=entries,
            fingerprint=fingerprint,
            seed=seed,
            skip=skipped,
            changed=changed,
        )
        self._make, self._scanned = make, Counter(skipped.counts)
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="qi-source")

    def take(self, count: int) -> list[M]:
        """The next ``count`` samples. Raises QiError when nothing usable is left."""
        return deal([(self._deck, count)], self._make, self._pool)[0]

    def state_dict(self) -> dict[str, Any]:
        return self._deck.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._deck.load_state_dict(state)

    def report(self) -> dict[str, int]:
        return dict(self._scanned + self._deck.broken())


def scan(entries: Sequence[E], check: Callable[[E], bytes], workers: int, skip: Skip) -> Iterator[tuple[E, bytes]]:
    """The usable entries in their order, each with its digest; the others are skipped with their reason.

    ``check``: the digest of an entry; raises Unusable.
    """
    prepare()

    def judge(entry: E) -> bytes | Unusable:
        try:
            return check(entry)
        except Unusable as error:
            return error

    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(entries), _AT_ONCE):
            some = entries[start : start + _AT_ONCE]
            for entry, verdict in zip(some, pool.map(judge, some), strict=True):
                if isinstance(verdict, Unusable):
                    skip(entry.key, verdict.reason, verdict.detail)
                else:
                    yield entry, verdict


def permutation(seed: int, epoch: int, size: int) -> np.ndarray[Any, np.dtype[np.intp]]:
    """The order of an epoch. Raw bits, sorted: NumPy promises the stream of bits for ever, not its shuffles."""
    bits = np.random.PCG64(number_of(f"{seed}/{epoch}/order")).random_raw(size)
    return np.argsort(bits, kind="stable")


def number_of(name: str) -> int:
    """64 bits from a name (which may hold bytes of a file name that are no text)."""
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
