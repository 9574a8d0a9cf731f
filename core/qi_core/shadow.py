"""Shadows: copies of the trained weights that follow them by a rule.

The average that previews and exports use is one (``ema``); an objective may ask for others: the frozen reference of
DPO and of a KL, the old policy of DiffusionNFT. Only trained tensors are copied, so beside an adapter a shadow is as
small as the adapter.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from attrs import frozen

from qi_core.shards import Held, Whole, fill

if TYPE_CHECKING:
    from torch import Tensor, nn


class Rule(Protocol):
    """How a shadow follows."""

    def decay(self, updates: int) -> float:
        """Part of the shadow that stays at its update number ``updates``, from 0: 1 stands still, 0 is a fresh copy."""
        ...


@frozen
class Average:
    """Exponential moving average. The decay rises as (1 + n) / (10 + n) up to its setting, so that a short run's
    average is not its first weights."""

    most: float

    def decay(self, updates: int) -> float:
        return min(self.most, (1 + updates) / (10 + updates))


@frozen
class Fixed:
    """Stays what it was at the start of the run."""

    def decay(self, updates: int) -> float:
        return 1.0


@frozen
class Refreshed:
    """Becomes the trained weights every so many updates, and stands still in between."""

    every: int

    def decay(self, updates: int) -> float:
        return 0.0 if (updates + 1) % self.every == 0 else 1.0


@frozen
class Ramp:
    """min(slope * n, most): close behind at first, further later (DiffusionNFT, arXiv 2509.16117)."""

    slope: float
    most: float

    def decay(self, updates: int) -> float:
        return min(self.slope * updates, self.most)


@runtime_checkable
class Shadowed(Protocol):
    """An objective that needs shadows."""

    def shadows(self) -> Mapping[str, Rule]:
        """By name; ``ema``, ``model``, ``optimizer`` and ``source`` are taken."""
        ...


class Shadow:
    """One copy, divided over ranks as the weights are. ``held``: how; unless said, this rank holds them all."""

    def __init__(self, model: nn.Module, rule: Rule, held: Held | None = None) -> None:
        self.rule = rule
        self.updates = 0
        self._held = held or Whole(model)
        self._copies = {name: piece.detach().clone() for name, piece in self._held.trained.items()}

    def update(self) -> None:
        """Follow the weights, once an update of theirs."""
        import torch

        decay = self.rule.decay(self.updates)
        self.updates += 1
        if decay < 1:
            live = self._held.trained
            torch._foreach_lerp_(  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
                list(self._copies.values()), [live[name].detach() for name in self._copies], 1 - decay
            )

    @contextmanager
    def applied(self) -> Generator[None]:
        """The model computes with the copies inside, with its own weights again afterwards."""
        self._held.exchange(self._copies)
        try:
            yield
        finally:
            self._held.exchange(self._copies)

    def tensors(self) -> dict[str, Tensor]:
        """The model's whole state by name, as this rank holds it: the copies; everything else as it is."""
        return {**self._held.frozen, **self._copies}

    def load(self, tensors: Mapping[str, Tensor], updates: int) -> None:
        """Take saved copies. Raises QiError where one is missing or misshapen."""
        from qi_core.tensorfiles import forms
        from qi_core.weights import refuse_mismatch

        found = {name: form for name, form in forms(tensors).items() if name not in self._held.frozen}
        shapes = {name: self._held.shape(name) for name in self._copies}
        refuse_mismatch(shapes, found, "weights kept beside the model", "they are of another model")
        for name, copy in self._copies.items():
            fill(self._held, name, copy, tensors)
        self.updates = updates
