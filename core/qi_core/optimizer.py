"""Optimizers: the update and its schedule. EMA: the average of the weights that previews and exports use."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor, nn


class Optimizer(Protocol):
    """A live optimizer over the parameters of one model."""

    lr: float
    """Peak learning rate; may be changed while the run goes on."""

    def rate(self, step: int) -> float:
        """The learning rate of step ``step`` (counted from 0): peak times schedule."""
        ...

    def step(self, step: int) -> None:
        """Update with the gradients as they are (already clipped), at ``rate(step)``; then clear them."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """Its state, flat, named ``<slot>/<parameter>`` (``exp_avg/img_in.weight``)."""
        ...

    def load(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Take a saved state. Raises QiError if a parameter's state is missing or misshapen."""
        ...

    def state(self) -> dict[str, Any]:
        """The rest of its state, as JSON values (counters; settings such as lr come from the recipe)."""
        ...


class OptimizerComponent(Protocol):
    """The settings of an optimizer."""

    def build(self, model: nn.Module, steps: int) -> Optimizer:
        """``steps``: length of the run, for schedules that end."""
        ...


class Ema:
    """Exponential moving average of the trained weights.

    The decay rises as (1 + n) / (10 + n) up to its setting, so that a short run's average is not its first weights.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self._model = model
        self._names = [name for name, p in model.named_parameters() if p.requires_grad]
        self._live = [p for p in model.parameters() if p.requires_grad]
        self._average = [p.detach().clone() for p in self._live]

    def update(self) -> None:
        """One step of the average."""
        import torch

        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        torch._foreach_lerp_(  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
            self._average, [p.detach() for p in self._live], 1 - decay
        )

    @contextmanager
    def applied(self) -> Generator[None]:
        """The model holds the averages inside, its own weights again afterwards."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        import torch

        with torch.no_grad():
            for live, average in zip(self._live, self._average, strict=True):
                kept = live.detach().clone()
                live.copy_(average)
                average.copy_(kept)

    def tensors(self) -> dict[str, Tensor]:
        """The model's whole state by name: the averages; frozen parameters and buffers as they are."""
        return self._model.state_dict() | dict(zip(self._names, self._average, strict=True))

    def load(self, tensors: Mapping[str, Tensor], updates: int) -> None:
        """Take saved averages. Raises QiError where one is missing or misshapen."""
        from qi_core.tensorfiles import forms
        from qi_core.weights import refuse_mismatch

        taken_as_it_is = self._model.state_dict().keys() - set(self._names)
        found = {name: form for name, form in forms(tensors).items() if name not in taken_as_it_is}
        wanted = {name: average.shape for name, average in zip(self._names, self._average, strict=True)}
        refuse_mismatch(wanted, found, "averaged weights", "they are of another model")
        for name, average in zip(self._names, self._average, strict=True):
            average.copy_(tensors[name])
        self.updates = updates
