"""The live source: whose turn it is, and the stock that each category's samples come from."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from attrs import Factory, define, evolve, field, frozen
from PIL import Image

from qi_core import material
from qi_core.data import Sample, Samples
from qi_core.drawing import Passed, drawn
from qi_core.entries import Entry
from qi_core.errors import QiError
from qi_core.files import write_whole
from qi_core.fit import Fit
from qi_core.pixels import Unusable
from qi_core.place import Place
from qi_core.repeats import UNIT, Repeats, Weights
from qi_core.seat import seat
from qi_core.shares import Turns, in_turn
from qi_core.shuffling import Deck, Fingerprint, number_of, permutation
from qi_core.skipped import Skip, Skipped
from qi_core.source import Planned, Source, Ticket
from qi_plugins.source_images.curated import Curated
from qi_plugins.source_images.images import Images
from qi_plugins.source_images.quality import Quality

UNCATEGORISED = "uncategorised"
Make = Callable[[Entry, int], Sample]


def tell(folder: Path, label: str, counts: Mapping[str, Fraction], shares: Mapping[str, Fraction]) -> None:
    """Keeps in the run's folder what each category holds and gets, beside that of other sources of the run. Of several
    ranks, which all find the same, the first one writes."""
    if seat().rank:
        return
    path = folder / "curation.json"
    try:
        told = json.loads(path.read_bytes()) if path.exists() else {}
    except ValueError:
        told = {}
    told[label] = {name: {"samples": float(counts[name]), "share": float(share)} for name, share in shares.items()}
    write_whole(path, (json.dumps(told, ensure_ascii=False, indent=1) + "\n").encode("utf-8", "backslashreplace"))


class Stock(Protocol):
    """The samples of every category, each endless and in an order of its own. See ``qi_core.Planned``: a category's
    tickets are its own, and stand here beside its number."""

    @property
    def counts(self) -> Mapping[str, Fraction]:
        """How many samples each category stands for, in the order of their numbers."""
        ...

    def plan(self, category: int, count: int) -> list[Ticket]: ...

    def cost(self, category: int, ticket: Ticket) -> int: ...

    def called(self, category: int, ticket: Ticket) -> str: ...

    def make(self, category: int, ticket: Ticket) -> Sample: ...

    def other(self, category: int, ticket: Ticket, attempt: int) -> Ticket: ...

    def made_of(self) -> dict[str, str]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...

    def report(self) -> dict[str, int]: ...


class CuratedSource:
    """Which category gives the n-th sample depends on shares, seed and n; which of its samples, on the stock. A ticket
    is the category's number before the category's own."""

    gives = Samples

    def __init__(self, stock: Stock, shares: Mapping[str, Fraction], seed: int, workers: int, skip: Skip) -> None:
        self.shares = shares
        self._names = list(shares)
        self._stock = stock
        self._turns = Turns(list(shares.values()), seed)
        self._workers = workers
        self._passed = Passed(skip)

    def plan(self, count: int) -> list[Ticket]:
        return in_turn(self._turns.take(count), self._stock.plan)

    def cost(self, ticket: Ticket) -> int:
        return self._stock.cost(ticket[0], ticket[1:])

    def called(self, ticket: Ticket) -> str:
        return self._stock.called(ticket[0], ticket[1:])

    def make(self, ticket: Ticket) -> Sample:
        """Raises Unusable, counted by category."""
        try:
            return self._stock.make(ticket[0], ticket[1:])
        except Unusable as error:
            raise error.again(self._names[ticket[0]]) from error

    def other(self, ticket: Ticket, attempt: int) -> Ticket:
        return ticket[0], *self._stock.other(ticket[0], ticket[1:], attempt)

    def made_of(self) -> dict[str, str]:
        """See ``qi_core.source.OfFiles``."""
        return self._stock.made_of()

    def draw(self, count: int) -> Samples:
        return drawn(self, count, self._passed, self._pool)  # type: ignore[no-any-return]

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self._workers, thread_name_prefix="qi-source")

    def state_dict(self) -> dict[str, Any]:
        return {"turns": self._turns.state_dict(), "categories": self._stock.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._stock.load_state_dict(state["categories"])
        self._turns.load_state_dict(state["turns"])

    def report(self) -> dict[str, int]:
        return dict(Counter(self._stock.report()) + self._passed.counts)


# --- files -------------------------------------------------------------------------------------------------------


@frozen(kw_only=True)
class Files:
    """A deck of files for each category, dealt side by side."""

    path: str
    counts: Mapping[str, Fraction]
    decks: Mapping[str, Deck[Entry]]
    fit: Fit
    judged: Make
    """Makes the sample of an entry in an epoch if it is good enough."""
    scanned: Mapping[str, int]
    """What was skipped before the first draw, by reason."""
    forgiving: bool
    """Go on after categories came or went."""
    _decks: list[Deck[Entry]] = field(init=False, default=Factory(lambda self: list(self.decks.values()), True))

    def plan(self, category: int, count: int) -> list[Ticket]:
        return self._decks[category].plan(count)

    def cost(self, category: int, ticket: Ticket) -> int:
        return self.fit.cost(self._entry(category, ticket))

    def called(self, category: int, ticket: Ticket) -> str:
        return self._entry(category, ticket).key

    def make(self, category: int, ticket: Ticket) -> Sample:
        return self._decks[category].make(ticket, self.judged)

    def other(self, category: int, ticket: Ticket, attempt: int) -> Ticket:
        return self._decks[category].other(ticket, attempt)

    def made_of(self) -> dict[str, str]:
        told = [f"{name}/{digest}" for name, deck in self.decks.items() for digest in deck.made_of().values()]
        return {f"images.path = {self.path!r}": material.digest(told)}

    def _entry(self, category: int, ticket: Ticket) -> Entry:
        return self._decks[category][ticket[1]]

    def state_dict(self) -> dict[str, Any]:
        return {name: deck.state_dict() for name, deck in self.decks.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state.keys() != self.decks.keys() and not self.forgiving:
            gone, new = sorted(state.keys() - self.decks.keys()), sorted(self.decks.keys() - state.keys())
            raise QiError(
                f"source.images.path = {self.path!r}: categories came or went since the checkpoint (gone: "
                f"{', '.join(gone) or 'none'}; new: {', '.join(new) or 'none'}); put them back and ask the same "
                "'quality' and 'least', or set source.images.changed = 'next-epoch' to go on with what is there"
            )
        for name, deck in self.decks.items():
            if name in state:
                deck.load_state_dict(state[name])

    def report(self) -> dict[str, int]:
        return dict(self.scanned)


def files(settings: Curated, images: Images, fit: Fit, skipped: Skipped, weights: Weights | None = None) -> Files:
    """Finds and groups the entries. A category with too few samples, or none above the bar, is left out and told.

    With weights a category counts as many samples as they come to, and within it they hold.
    """
    grouped: dict[str, list[tuple[Entry, bytes]]] = defaultdict(list)
    for entry, digest in images.scan(fit, skipped, categories=True):
        if entry.category or settings.uncategorised == "keep":
            grouped[entry.category or UNCATEGORISED].append((entry, digest))
        else:
            skipped(entry.key, "no category")
    scanned = Counter(skipped.counts)
    make = _maker(fit, settings.quality)
    if weights:
        weights.of_all([entry.key for own in grouped.values() for entry, _ in own], repr(images.path))
    decks: dict[str, Deck[Entry]] = {}
    counts: dict[str, Fraction] = {}
    for name, own in sorted(grouped.items()):
        seed, entries = number_of(f"{fit.seed}/category {name}"), [entry for entry, _ in own]
        repeats, counted = None, entries
        if weights:
            repeats = Repeats(weights.of(entry.key for entry in entries)[0], seed, weights.path)
            counted = [entries[number] for number in repeats.among]
        if told := _left_out(settings, counted, seed, make, images.workers, skipped):
            scanned[f"{name}: {told}"] = len(own)
            continue
        counts[name] = Fraction(int(repeats.weights.sum()), UNIT) if repeats else Fraction(len(own))
        decks[name] = Deck(
            where=f"source.images.path = {images.path!r}, category {name!r}",
            entries=entries,
            fingerprint=Fingerprint.of([(entry.key, digest) for entry, digest in own]),
            seed=seed,
            changed=images.changed,
            repeats=repeats,
        )
    if not decks:
        told = "; ".join(f"{count} x {reason}" for reason, count in scanned.most_common(5))
        raise QiError(
            f"source.images.path = {images.path!r}: no category is left ({told}); lower the bar of source.quality or "
            "source.least; each sample with its reason is in skipped.jsonl in the run's folder"
        )
    forgiving = images.changed == "next-epoch"
    return Files(
        path=images.path, counts=counts, decks=decks, fit=fit, judged=make, scanned=scanned, forgiving=forgiving
    )


def _maker(fit: Fit, quality: Quality) -> Make:
    passed: set[str] = set()  # spares later epochs the measuring; what it holds changes no verdict

    def make(entry: Entry, epoch: int) -> Sample:
        if quality.asks() and entry.key not in passed:
            with fit.whole(entry) as picture:
                failed = quality.judge(picture)
            if failed:
                raise failed
            passed.add(entry.key)
        return evolve(fit.make(entry, epoch), category=entry.category or UNCATEGORISED)

    return make


def _left_out(settings: Curated, entries: Sequence[Entry], seed: int, make: Make, workers: int, skip: Skip) -> str:
    """Why a category is left out; empty if it isn't. Looks until one sample is good, in the order of the first epoch.

    Known at the start, so that shares never change on the way.
    """
    if not entries:
        return "left out, for all its samples weigh 0"
    if len(entries) < settings.least:
        for entry in entries:
            skip(entry.key, "category too small", f"{len(entries)} samples, at least {settings.least} wanted")
        return "too small a category, left out"

    def failure(number: int) -> Unusable | None:
        try:
            make(entries[number], 0)
        except Unusable as error:
            return error
        return None

    order = [int(number) for number in permutation(seed, 0, len(entries))]
    failures: dict[int, Unusable] = {}
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(order), 8):
            some = order[start : start + 8]
            for number, failed in zip(some, pool.map(failure, some), strict=True):
                if failed is None:
                    return ""
                failures[number] = failed
    for number, failed in failures.items():
        skip(entries[number].key, failed.reason, failed.detail)
    reasons = Counter(failed.reason for failed in failures.values()).most_common(3)
    return f"left out, for none is good enough ({', '.join(f'{count} {reason}' for reason, count in reasons)})"


# --- sources -----------------------------------------------------------------------------------------------------


class Child(Source[Samples], Planned, Protocol):
    """A live source that plans."""


@define(kw_only=True, eq=False)
class Sources:
    """A source for each category."""

    counts: Mapping[str, Fraction]
    children: Mapping[str, Child]
    quality: Quality
    _names: list[str] = field(init=False, default=Factory(lambda self: list(self.children), True))

    def plan(self, category: int, count: int) -> list[Ticket]:
        return self._child(category).plan(count)

    def cost(self, category: int, ticket: Ticket) -> int:
        return self._child(category).cost(ticket)

    def called(self, category: int, ticket: Ticket) -> str:
        return f"{self._names[category]}/{self._child(category).called(ticket)}"

    def make(self, category: int, ticket: Ticket) -> Sample:
        name, sample = self._names[category], self._child(category).make(ticket)
        self._judge(sample)
        return evolve(sample, key=f"{name}/{sample.key}", category=name)  # type: ignore[no-any-return]

    def other(self, category: int, ticket: Ticket, attempt: int) -> Ticket:
        return self._child(category).other(ticket, attempt)

    def made_of(self) -> dict[str, str]:
        return material.of_all(self.children)

    def state_dict(self) -> dict[str, Any]:
        return {name: child.state_dict() for name, child in self.children.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if gone := sorted(state.keys() - self.children.keys()):
            raise QiError(
                f"source.categories: the checkpoint knows a category {gone[0]!r}, the recipe has "
                f"{', '.join(self.children)}; keep the categories (weights may change, categories may be added)"
            )
        for name, own in state.items():
            self.children[name].load_state_dict(own)

    def report(self) -> dict[str, int]:
        return {f"{name}: {why}": n for name, child in self.children.items() for why, n in child.report().items()}

    def _child(self, category: int) -> Planned:
        return self.children[self._names[category]]

    def _judge(self, sample: Sample) -> None:
        """Raises Rejected."""
        if self.quality.asks():
            picture = Image.fromarray(sample.image.permute(1, 2, 0).contiguous().numpy())
            if failed := self.quality.judge(picture):
                raise failed


def sources(settings: Curated, place: Place, multiple: int) -> Sources:
    """Each built with a seed of its own: two of one kind must not roll the same numbers. Raises QiError for one that
    does not plan."""
    children: dict[str, Child] = {}
    for category in settings.categories:
        seed = number_of(f"{place.seed}/category {category.category}") % 2**32
        live = category.source.build(evolve(place, seed=seed), multiple)
        if not isinstance(live, Planned):
            raise QiError(
                f"source.categories, {category.category!r}: {type(category.source).__name__} cannot say what comes "
                "next before it is made (qi_core.Planned), as sources that are combined must; give another"
            )
        children[category.category] = live
    return Sources(
        counts={category.category: Fraction(repr(category.weight)) for category in settings.categories},
        children=children,
        quality=settings.quality,
    )
