"""Endless passes over entries that lie there: an order for every epoch, a pool of threads, a position to save."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import chain
from math import gcd
from time import perf_counter, thread_time
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar

import numpy as np
from attrs import frozen

from qi_core.drawing import Passed, drawn
from qi_core.errors import QiError
from qi_core.order import NAME, Order
from qi_core.pixels import Unusable, prepare
from qi_core.skipped import Skip, Skipped
from qi_core.source import Ticket

if TYPE_CHECKING:
    from qi_core.repeats import Repeats

_AT_ONCE = 4096  # entries handed to the pool together: bounds what a set of millions holds in flight
_A_THREAD = 64  # of them, one after the other in a thread: handing over costs as much as a look at a file
LARGE = 2**22
"""Entries beyond which no order is held in memory: sorting one would take seconds at the start of each epoch."""


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

    A ticket is (epoch, number). With ``repeats`` an epoch has each entry as often as it comes, and in the place of the
    epoch stands how often that entry came before.
    """

    def __init__(
        self,
        *,
        where: str,
        entries: Sequence[E],
        fingerprint: Fingerprint,
        seed: int,
        changed: Literal["refuse", "next-epoch"],
        repeats: Repeats | None = None,
    ) -> None:
        """``where``: what messages call it, such as ``source.path = 'photos'``."""
        self._where, self._entries, self._fingerprint = where, entries, fingerprint
        self._seed, self._changed, self._repeats = seed, changed, repeats
        self._begin(0)
        self._broken: dict[int, Unusable] = {}
        """What was found unusable, by number: it is not opened again. Changes nothing of what is drawn."""

    def __getitem__(self, number: int) -> E:
        return self._entries[number]

    def plan(self, count: int) -> list[Ticket]:
        """Of the next entries."""
        return [self._next() for _ in range(count)]

    def make(self, ticket: Ticket, make: Callable[[E, int], M]) -> M:
        """What ``make`` makes of the entry in its epoch. Raises Unusable."""
        epoch, number = ticket
        if number in self._broken:
            raise self._broken[number].again()
        try:
            return make(self._entries[number], epoch)
        except Unusable as error:
            self._broken[number] = error.again()
            raise

    def other(self, ticket: Ticket, attempt: int) -> Ticket:
        """An entry that stands in for one that is broken, in the same epoch: by and by all of them. Raises QiError when
        all are broken."""
        among = self._repeats.among if self._repeats else range(len(self._entries))
        if len(self._broken) == len(among):
            reasons = Counter(error.reason for error in list(self._broken.values())).most_common(3)
            told = ", ".join(f"{count} {reason}" for reason, count in reasons)
            raise QiError(f"{self._where}: no usable sample is left ({told}); check the data")
        epoch, number = ticket
        at = int(np.searchsorted(among, number)) if self._repeats else number
        found = another(f"{self._seed}/{epoch}/{number}/stands in", at, attempt, len(among))
        return epoch, int(among[found])

    def _begin(self, epoch: int, index: int = 0) -> None:
        self._epoch, self._index = epoch, index
        self._pass = self._repeats.epoch(epoch) if self._repeats else None
        self._size = len(self._entries) if self._pass is None else len(self._pass)
        self._order = order_of(self._seed, epoch, self._size)

    def _next(self) -> Ticket:
        while self._index == self._size:  # more than one that is over only where weights leave one empty
            self._begin(self._epoch + 1)
        self._index += 1
        at = int(self._order[self._index - 1])
        return (self._epoch, at) if self._pass is None else self._pass[at]

    def made_of(self) -> dict[str, str]:
        """See ``qi_core.source.OfFiles``: captions and sizes, and weights."""
        own = {self._where.removeprefix("source."): self._fingerprint.contents}
        return own | (self._repeats.made_of() if self._repeats else {})

    def state_dict(self) -> dict[str, Any]:
        return {
            "epoch": self._epoch,
            "index": self._index,
            "samples": len(self._entries),
            "order": order_name(self._size),
            "keys": self._fingerprint.keys,
            "contents": self._fingerprint.contents,
        } | ({"weights": self._repeats.identity} if self._repeats else {})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a position. Raises QiError if the data is not what it was and ``changed`` refuses that."""
        same_keys = state["keys"] == self._fingerprint.keys
        if state["contents"] != self._fingerprint.contents and self._changed == "refuse":
            what = "captions or pictures are others" if same_keys else f"now {len(self._entries)}, not all the same"
            raise QiError(
                f"{self._where}: the data changed since the checkpoint ({state['samples']} usable "
                f"samples then, {what}); put it back, or set source.changed = 'next-epoch' to go on with what is there"
            )
        weighed = weighs_alike(state.get("weights"), self._repeats.identity if self._repeats else None, self._changed)
        self._begin(state["epoch"], state["index"])
        kept = state.get("order", "sorted-1")  # checkpoints from before there were others
        if kept != (own := order_name(self._size)) and same_keys and weighed and self._changed == "refuse":
            raise QiError(
                f"{self._where}: the checkpoint is from a version of qi that put {self._size} samples in "
                f"another order ({kept}, here {own}); go on with that version, or set source.changed = 'next-epoch' to "
                "begin the next epoch"
            )
        if not (same_keys and weighed and kept == own):  # the place in an order of other samples means nothing
            self._begin(state["epoch"] + 1)


class Shuffled(Generic[E, M]):
    """Endless passes over one data set: a source that plans.

    ``make`` makes the sample of an entry in an epoch, in any thread; it raises Unusable if that can't be. ``cost``:
    about how many pixels it has. ``named``: see ``qi_core.source.Named``.
    """

    def __init__(
        self,
        *,
        gives: type,
        path: str,
        entries: Sequence[E],
        fingerprint: Fingerprint,
        make: Callable[[E, int], M],
        cost: Callable[[E], int],
        named: Callable[[E, int], bytes | None] = lambda entry, epoch: None,
        seed: int,
        skipped: Skipped,
        changed: Literal["refuse", "next-epoch"],
        workers: int,
        repeats: Repeats | None = None,
    ) -> None:
        self.gives = gives
        self._deck = Deck(
            where=f"source.path = {path!r}",
            entries=entries,
            fingerprint=fingerprint,
            seed=seed,
            changed=changed,
            repeats=repeats,
        )
        self._make, self._cost, self._named, self._workers = make, cost, named, workers
        self._scanned, self._passed = Counter(skipped.counts), Passed(skipped)

    def plan(self, count: int) -> list[Ticket]:
        return self._deck.plan(count)

    def cost(self, ticket: Ticket) -> int:
        return self._cost(self._deck[ticket[1]])

    def called(self, ticket: Ticket) -> str:
        return self._deck[ticket[1]].key

    def named(self, ticket: Ticket) -> bytes | None:
        """See ``qi_core.source.Named``."""
        epoch, number = ticket
        return self._named(self._deck[number], epoch)

    def make(self, ticket: Ticket) -> M:
        return self._deck.make(ticket, self._make)

    def other(self, ticket: Ticket, attempt: int) -> Ticket:
        return self._deck.other(ticket, attempt)

    def made_of(self) -> dict[str, str]:
        """See ``qi_core.source.OfFiles``."""
        return self._deck.made_of()

    def draw(self, count: int) -> Any:
        return drawn(self, count, self._passed, self._pool)

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self._workers, thread_name_prefix="qi-source")

    def state_dict(self) -> dict[str, Any]:
        return self._deck.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._deck.load_state_dict(state)

    def report(self) -> dict[str, int]:
        return dict(self._scanned + self._passed.counts)


def scan(entries: Sequence[E], check: Callable[[E], M], workers: int, skip: Skip) -> Iterator[tuple[E, M]]:
    """The usable entries in their order, each with what ``check`` gives for it; the others are skipped with their
    reason.

    ``check`` raises Unusable.
    """
    prepare()

    def judge(entry: E) -> M | Unusable:
        try:
            return check(entry)
        except Unusable as error:
            return error

    def judge_all(some: Sequence[E]) -> list[M | Unusable]:
        return [judge(entry) for entry in some]

    def verdicts(some: Sequence[E], pool: ThreadPoolExecutor) -> Iterator[M | Unusable]:
        # Where files come at once, threads only get into each other's way (0.14 ms a header without, 0.36 ms with
        # four); where they are waited for, on a disk or over a network, threads wait side by side. What a look at the
        # first few costs says which it is; what is found is the same.
        first, rest = some[:_A_THREAD], some[_A_THREAD:]
        wall, busy = perf_counter(), thread_time()
        yield from judge_all(first)
        if perf_counter() - wall < 2 * (thread_time() - busy):
            yield from map(judge, rest)
        else:
            hands = [rest[at : at + _A_THREAD] for at in range(0, len(rest), _A_THREAD)]
            yield from chain.from_iterable(pool.map(judge_all, hands))

    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(entries), _AT_ONCE):
            some = entries[start : start + _AT_ONCE]
            for entry, verdict in zip(some, verdicts(some, pool), strict=True):
                if isinstance(verdict, Unusable):
                    skip(entry.key, verdict.reason, verdict.detail)
                else:
                    yield entry, verdict


def weighs_alike(state: Mapping[str, str] | None, own: Mapping[str, str] | None, changed: str) -> bool:
    """Whether a position of a checkpoint was counted by these weights. If not, the next epoch begins by them; but a
    file that is not what it was is data that changed: raises QiError if ``changed`` refuses that."""
    if state and own and state != own and state["path"] == own["path"] and changed == "refuse":
        raise QiError(
            f"source.weights_file = {own['path']!r}: weights changed since the checkpoint; put them back, give the new "
            "ones in a file of another name, or set source.changed = 'next-epoch': the next epoch then begins by them"
        )
    return state == own


def order_of(seed: int, epoch: int, size: int) -> Order | np.ndarray[Any, np.dtype[np.intp]]:
    """The order of an epoch, by position. Held in memory while that costs little, so that runs go on as they were."""
    return permutation(seed, epoch, size) if size <= LARGE else Order(f"{seed}/{epoch}/order", size)


def order_name(size: int) -> str:
    """Which of them it is, for checkpoints."""
    return "sorted-1" if size <= LARGE else NAME


def permutation(seed: int, epoch: int, size: int) -> np.ndarray[Any, np.dtype[np.intp]]:
    """The order of an epoch. Raw bits, sorted: NumPy promises the stream of bits for ever, not its shuffles."""
    bits = np.random.PCG64(number_of(f"{seed}/{epoch}/order")).random_raw(size)
    return np.argsort(bits, kind="stable")


def another(name: str, number: int, attempt: int, count: int) -> int:
    """Which of ``count`` stands in for ``number``, at the first, second ... attempt: before any is asked again, all
    have been, in an order that ``name`` decides."""
    step = 1 + number_of(name) % max(count - 1, 1)
    while gcd(step, count) > 1:  # ends at 1 at the latest
        step = step % (count - 1) + 1
    return (number + attempt * step) % count


def number_of(name: str) -> int:
    """64 bits from a name (which may hold bytes of a file name that are no text)."""
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
