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
    """One copy."""

    def __init__(self, model: nn.Module, rule: Rule) -> None:
        self.rule = rule
        self.updates = 0
        self._model = model
        self._names = [name for name, p in model.named_parameters() if p.requires_grad]
        self._live = [p for p in model.parameters() if p.requires_grad]
        self._copy = [p.detach().clone() for p in self._live]

    def update(self) -> None:
        """Follow the weights, once an update of theirs."""
        import torch

        decay = self.rule.decay(self.updates)
        self.updates += 1
        if decay < 1:
            torch._foreach_lerp_(  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
                self._copy, [p.detach() for p in self._live], 1 - decay
            )

    @contextmanager
    def applied(self) -> Generator[None]:
        """The model holds the copies inside, its own weights again afterwards. Nothing is copied for it."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        import torch

        for live, copy in zip(self._live, self._copy, strict=True):
            live.data, copy.data = copy.data, live.data
        # Autocast keeps its bfloat16 copies by parameter and would go on with those of the weights before: a policy
        # would be computed with its reference's weights for the rest of the step.
        torch.clear_autocast_cache()

    def tensors(self) -> dict[str, Tensor]:
        """The model's whole state by name: the copies; frozen parameters and buffers as they are."""
        return self._model.state_dict() | dict(zip(self._names, self._copy, strict=True))

    def load(self, tensors: Mapping[str, Tensor], updates: int) -> None:
        """Take saved copies. Raises QiError where one is missing or misshapen."""
        from qi_core.tensorfiles import forms
        from qi_core.weights import refuse_mismatch

        taken_as_it_is = self._model.state_dict().keys() - set(self._names)
        found = {name: form for name, form in forms(tensors).items() if name not in taken_as_it_is}
        shapes = {name: copy.shape for name, copy in zip(self._names, self._copy, strict=True)}
        refuse_mismatch(shapes, found, "weights kept beside the model", "they are of another model")
        for name, copy in zip(self._names, self._copy, strict=True):
            copy.copy_(tensors[name])
        self.updates = updates
