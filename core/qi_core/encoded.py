"""Batches that are encoded: what an objective makes of a source's batch with the frozen encoders alone.

They can be made anywhere, put on the wire (``qi_core.packing``), joined and cut: ``qi_core.producing.Encodable``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from attrs import evolve, frozen

from qi_core.data import Condition, Latents, StoredError, pieces

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@frozen(kw_only=True, eq=False)
class Examples:
    """A batch ready for flow matching: encoded pictures and conditions."""

    latents: Latents
    """The data x_0, in the denoiser's space."""
    condition: Condition
    slots: tuple[int, ...]
    """Place of each sample in the global batch of its step."""
    keys: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.slots)

    @property
    def costs(self) -> tuple[int, ...]:
        """Tokens of the pictures."""
        return self.latents.lengths

    def pick(self, which: Sequence[int]) -> Examples:
        return Examples(
            latents=_latents(self.latents, which),
            condition=_conditions(self.condition, which),
            slots=tuple(self.slots[i] for i in which),
            keys=tuple(self.keys[i] for i in which),
        )

    def split(self, parts: int) -> list[Examples]:
        cuts = pieces(len(self), parts)
        return [self] if len(cuts) == 1 else [self.pick(range(len(self))[cut]) for cut in cuts]

    @classmethod
    def cat(cls, parts: Sequence[Examples]) -> Examples:
        """Batches end to end."""
        return Examples(
            latents=Latents.cat([part.latents for part in parts]),
            condition=Condition.cat([part.condition for part in parts]),
            slots=tuple(slot for part in parts for slot in part.slots),
            keys=tuple(key for part in parts for key in part.keys),
        )

    def broken(self) -> list[int]:
        """Which samples have values that are not finite, in their pictures or in what they are told."""
        return _broken([self.latents], self.condition)

    def to(self, *args: torch.device | torch.dtype) -> Examples:
        """On another device."""
        return evolve(self, latents=self.latents.to(*args), condition=self.condition.to(*args))


@frozen(kw_only=True, eq=False)
class EncodedPairs:
    """A batch of preferences ready to be learned from: encoded pictures and, once a pair, what both were drawn for."""

    keys: tuple[str, ...]
    slots: tuple[int, ...]
    """Place of each pair in the global batch of its step."""
    winners: Latents
    """In the denoiser's space, one a pair."""
    losers: Latents
    """The same, each of its winner's size."""
    condition: Condition
    """One a pair: text, and references where a picture was to be edited."""
    stored: tuple[tuple[StoredError, ...], ...]
    """Errors of a reference model that the pairs brought along, of each."""

    def __len__(self) -> int:
        return len(self.slots)

    @property
    def costs(self) -> tuple[int, ...]:
        """Tokens of both pictures."""
        return tuple(2 * length for length in self.winners.lengths)

    def pick(self, which: Sequence[int]) -> EncodedPairs:
        return EncodedPairs(
            keys=tuple(self.keys[i] for i in which),
            slots=tuple(self.slots[i] for i in which),
            winners=_latents(self.winners, which),
            losers=_latents(self.losers, which),
            condition=_conditions(self.condition, which),
            stored=tuple(self.stored[i] for i in which),
        )

    def split(self, parts: int) -> list[EncodedPairs]:
        cuts = pieces(len(self), parts)
        return [self] if len(cuts) == 1 else [self.pick(range(len(self))[cut]) for cut in cuts]

    @classmethod
    def cat(cls, parts: Sequence[EncodedPairs]) -> EncodedPairs:
        """Batches end to end."""
        return EncodedPairs(
            keys=tuple(key for part in parts for key in part.keys),
            slots=tuple(slot for part in parts for slot in part.slots),
            winners=Latents.cat([part.winners for part in parts]),
            losers=Latents.cat([part.losers for part in parts]),
            condition=Condition.cat([part.condition for part in parts]),
            stored=tuple(errors for part in parts for errors in part.stored),
        )

    def broken(self) -> list[int]:
        """Which pairs have values that are not finite, in a picture or in what both are told."""
        return _broken([self.winners, self.losers], self.condition)

    def to(self, *args: torch.device | torch.dtype) -> EncodedPairs:
        """On another device."""
        return evolve(
            self, winners=self.winners.to(*args), losers=self.losers.to(*args), condition=self.condition.to(*args)
        )


def _latents(latents: Latents, which: Sequence[int]) -> Latents:
    singles = latents.split()
    return Latents.cat([singles[i] for i in which])


def _conditions(condition: Condition, which: Sequence[int]) -> Condition:
    singles = condition.split()
    return Condition.cat([singles[i] for i in which])


def _broken(pictures: Sequence[Latents], condition: Condition) -> list[int]:
    references = [] if condition.references is None else [condition.references]
    held = [condition.text, *(latents.tokens for latents in (*pictures, *references))]
    if all(map(_finite, held)):  # one pass over everything is a fraction of one over each
        return []
    singles = zip(condition.split(), *(latents.split() for latents in pictures), strict=True)
    return [i for i, (told, *own) in enumerate(singles) if not _sound(told, own)]


def _sound(told: Condition, own: Sequence[Latents]) -> bool:
    references = [] if told.references is None else [told.references]
    return all(map(_finite, (told.text, *(latents.tokens for latents in (*own, *references)))))


def _finite(values: Tensor) -> bool:
    """Seven times as quick on a CPU as asking of every value."""
    if not values.numel():
        return True
    least, most = values.aminmax()
    return bool(least.isfinite() & most.isfinite())
