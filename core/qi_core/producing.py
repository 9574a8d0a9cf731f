"""Carries out orders: makes the samples of a portion and, where there are encoders, encodes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar, runtime_checkable

import torch
from attrs import Factory, evolve, field, frozen

from qi_core.data import Batch
from qi_core.dice import Dice
from qi_core.drawing import Before, Made, all_made, made
from qi_core.errors import QiError
from qi_core.material import Told, refuse_others, told
from qi_core.pixels import Unusable
from qi_core.portions import Lost, Order, Portion
from qi_core.source import Named, Planned, Ticket

if TYPE_CHECKING:
    from qi_core.encoder import Encoders
    from qi_core.parallel import Strategy

B = TypeVar("B")
TRIES = 100
"""Samples in a row whose latents are not finite, before the encoder itself must be wrong."""


@runtime_checkable
class Encodable(Protocol):
    """A batch that is encoded: it can also be joined, and says whether its values can be trained on."""

    def __len__(self) -> int: ...

    @property
    def slots(self) -> Sequence[int]: ...

    def pick(self, which: Sequence[int]) -> Self: ...

    @classmethod
    def cat(cls, parts: Sequence[Self]) -> Self:
        """Samples of several batches, one after another."""
        ...

    def broken(self) -> list[int]:
        """Which of its samples hold values that are not finite."""
        ...

    def to(self, *args: torch.device | torch.dtype) -> Self:
        """On another device."""
        ...


@runtime_checkable
class Encodes(Protocol):
    """An objective that can do a part of ``prepare`` beforehand: what needs no model but the frozen encoders. Its
    ``prepare`` takes what ``encode`` gives in the place of the batch."""

    def encode(self, batch: Any, encoders: Encoders, dice: Dice) -> Any:
        """The batch, encoded (an ``Encodable``). Randomness comes from ``dice``, per slot."""
        ...


class Remembers(Protocol):
    """See ``qi_core.cache.memory.Memory``."""

    def recall(self, names: Sequence[bytes | None]) -> Sequence[Any]:
        """Samples; None for those that have to be made."""
        ...

    def learn(self, name: bytes | None, sample: Any) -> None:
        """A sample that was made."""
        ...


@frozen(kw_only=True, eq=False)
class Maker:
    """Makes what is ordered. The same answer to the same order wherever it is carried out."""

    source: Planned
    seed: int
    """Of the run."""
    pool: ThreadPoolExecutor | None = None
    objective: Any = None
    encoders: Encoders | None = None
    strategy: Strategy | None = field(default=None)
    """Whose device and precision encoders compute in."""
    memory: Remembers | None = None
    """Of samples that need not be made again."""
    _made_of: Told = field(init=False, default=Factory(lambda self: told(self.source), takes_self=True))
    """What the source is made of, asked once: of thousands of categories that takes milliseconds."""

    def make(self, order: Order) -> Portion:
        """Samples as the source gives them; those that are remembered without their pixels. Raises QiError where the
        order is of a source that is made of other files."""
        if order.made_of != self._made_of:
            refuse_others(order.made_of, self.source)
        found = self._found(order.tickets, refusing(order))
        batch = self.source.gives(items=tuple(one.item for one in found), slots=order.slots)
        return Portion(batch=batch, lost=tuple(lost for one in found for lost in one.lost))

    def one_by_one(self, order: Order, places: Sequence[int], tell: Callable[[int, str], None]) -> None:
        """Make the samples at these places of an order and give none: to see which of them ends this process. ``tell``
        hears place and key before each is made, those that stand in for another too."""
        refuse = refusing(order)

        def before(place: int, key: str) -> None:
            if refuse is not None:
                refuse(key)
            tell(place, key)

        for place in places:
            made(self.source, order.tickets[place], partial(before, place))

    def _found(self, tickets: Sequence[Ticket], refuse: Before | None) -> list[Made]:
        source, memory = self.source, self.memory
        if memory is None or not isinstance(source, Named):
            return all_made(source, tickets, self.pool, refuse)
        names = [source.named(ticket) for ticket in tickets]
        known = [None if sample is None else Made(item=sample) for sample in memory.recall(names)]
        unknown = [t for t, k in zip(tickets, known, strict=True) if k is None]
        rest = iter(all_made(source, unknown, self.pool, refuse))
        found: list[Made] = []
        for name, one in zip(names, known, strict=True):
            fresh = next(rest) if one is None else one
            if one is None and not fresh.lost:
                memory.learn(name, fresh.item)
            found.append(fresh)
        return found

    def encoded(self, order: Order, portion: Portion) -> Portion:
        """The same as the objective takes them, where it has a way to. A sample whose values are not finite gets a
        stand-in, as one that cannot be read does. Raises QiError if none of many is any better."""
        if self.encoders is None or not isinstance(self.objective, Encodes):
            return portion
        dice = Dice(self.seed, order.step)
        raw: Any = portion.batch
        batch = self._encode(raw, dice)
        lost = list(portion.lost)
        tries = [0] * len(order.tickets)
        while broken := self._broken(raw, batch, dice):
            for i in broken:
                ticket = order.tickets[i]
                lost.append(Lost(key=raw.items[i].key, reason="latent is not finite", detail=""))
                tries[i] += 1
                if tries[i] > TRIES:
                    raise QiError(
                        f"step {order.step + 1}: {TRIES} samples in a row come out of the encoders with values that "
                        f"are not finite, the last {lost[-1].key}; look at the autoencoder's and the conditioner's "
                        "weights and precision"
                    )
                stands_in = made(self.source, self.source.other(ticket, tries[i]), refusing(order))
                lost += stands_in.lost
                raw = evolve(raw, items=(*raw.items[:i], stands_in.item, *raw.items[i + 1 :]))
            batch = self._encode(raw, dice)
        return Portion(batch=batch, lost=tuple(lost))

    def _broken(self, raw: Any, batch: Any, dice: Dice) -> list[int]:
        """Which samples' values are not finite. ``batch``: None where the encoders refused some."""
        if batch is not None:
            return list(batch.broken())
        return [i for i in range(len(raw)) if self._encode(raw.pick([i]), dice) is None]

    def _encode(self, batch: Any, dice: Dice) -> Any:
        """None where an encoder (one that keeps what it gave) says that a value is not finite."""
        assert self.encoders is not None
        assert self.strategy is not None
        try:
            with self.strategy.autocast(), torch.no_grad():
                return self.objective.encode(batch, self.encoders, dice)
        except Unusable:
            return None


def refusing(order: Order) -> Before | None:
    """Raises Unusable for what the order says is to be avoided. None: it says nothing, and no key need be looked up."""
    avoid = {each.key: each for each in order.avoid}

    def refuse(key: str) -> None:
        if key in avoid:
            raise Unusable(avoid[key].reason, avoid[key].detail)

    return refuse if avoid else None


def joined(batches: Sequence[Batch]) -> Batch:
    """One batch of several, in the order of their slots."""
    first: Any = batches[0]
    whole: Any = first
    if len(batches) > 1 and isinstance(first, Encodable):
        whole = type(first).cat(batches)  # type: ignore[arg-type]
    elif len(batches) > 1:
        parts: Sequence[Any] = batches
        whole = type(first)(
            items=tuple(item for part in parts for item in part.items),
            slots=tuple(slot for part in parts for slot in part.slots),
        )
    slots: Sequence[int] = getattr(whole, "slots", ())
    order = sorted(range(len(slots)), key=lambda i: slots[i])
    found: Batch = whole if order == list(range(len(slots))) else whole.pick(order)
    return found
