"""AdamW at work: torch's update, with a schedule that is a function of the step alone and a flat state."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from qi_core import Held, QiError, fill
from qi_core.tensorfiles import forms

if TYPE_CHECKING:
    from qi_plugins.optimizer_adamw.component import AdamW

SLOTS = ("exp_avg", "exp_avg_sq", "step")


class LiveAdamW:
    """See ``qi_core.optimizer.Optimizer``."""

    def __init__(self, settings: AdamW, model: nn.Module, steps: int, held: Held) -> None:
        self.lr = settings.lr
        self._settings = settings
        self._steps = steps
        self._held = held
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        if not trained:
            raise QiError("optimizer: the model has no trained parameter; at least one was wanted; freeze less of it")
        groups = [
            {"params": [p for p in trained if p.ndim >= 2], "weight_decay": settings.weight_decay},
            {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
        ]
        # One kernel over all parameters; several times quicker than torch's default on small models, on the CPU too.
        self._torch = torch.optim.AdamW(groups, lr=settings.lr, betas=settings.betas, eps=settings.eps, fused=True)
        self._update = held.drive(self._torch)
        self._parameters = held.trained  # whose state is kept from now on

    def rate(self, step: int) -> float:
        """The learning rate of step ``step``, counted from 0: never zero during the warm-up, ``lr`` at its last step.

        The cosine starts at ``lr`` with the first step after the warm-up; it and the decay would arrive at ``final``
        with the step after the last one, so that no step is wasted on a rate of zero.
        """
        warmup = self._settings.warmup
        if step < warmup:
            return self.lr * (step + 1) / warmup
        final = self._settings.final
        if self._settings.schedule == "constant":
            left = max(0, self._steps - step)
            stay = min(1.0, left / self._settings.decay) if self._settings.decay else 1.0
            return self.lr * (final + (1 - final) * stay)
        progress = min(1.0, (step - warmup) / max(1, self._steps - warmup))
        return self.lr * (final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress)))

    def step(self, step: int) -> None:
        """Update with the gradients that are there, at ``rate(step)``; then clear them."""
        rate = self.rate(step)
        for group in self._torch.param_groups:
            group["lr"] = rate
        self._update()
        self._held.clear()

    def tensors(self) -> dict[str, Tensor]:
        """``exp_avg/<parameter>``, ``exp_avg_sq/<parameter>``, ``step/<parameter>``.

        A parameter that never had a gradient has no state, and is named in ``state()`` instead.
        """
        return {
            f"{slot}/{name}": self._torch.state[parameter][slot]
            for name, parameter in self._parameters.items()
            if parameter in self._torch.state
            for slot in SLOTS
        }

    def state(self) -> dict[str, Any]:
        return {"untouched": [name for name, p in self._parameters.items() if p not in self._torch.state]}

    def load(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Take a saved state, bit for bit; all of it or, when something doesn't fit, nothing."""
        untouched = set(state.get("untouched", ()))
        wanted = {
            f"{slot}/{name}": () if slot == "step" else self._held.shape(name)
            for name in self._parameters
            if name not in untouched
            for slot in SLOTS
        }
        self._check(tensors, wanted)
        loaded: dict[Tensor, dict[str, Tensor]] = {}
        for name, parameter in self._parameters.items():
            if name not in untouched:
                step = tensors[f"step/{name}"].to(device=parameter.device, dtype=torch.float32, copy=True)
                loaded[parameter] = {"step": step}
                for slot in ("exp_avg", "exp_avg_sq"):
                    loaded[parameter][slot] = torch.empty_like(parameter, requires_grad=False)
                    fill(self._held, name, loaded[parameter][slot], tensors, f"{slot}/{name}")
        self._torch.state.clear()
        self._torch.state.update(loaded)

    def _check(self, tensors: Mapping[str, Tensor], wanted: Mapping[str, tuple[int, ...]]) -> None:
        advice = "resume with the denoiser and the optimizer that this checkpoint was made with"
        if missing := sorted(wanted.keys() - tensors.keys()):
            raise QiError(f"optimizer state: {missing[0]!r} is missing ({len(missing)} in all); {advice}")
        if extra := sorted(tensors.keys() - wanted.keys()):
            raise QiError(f"optimizer state: {extra[0]!r} belongs to no parameter ({len(extra)} in all); {advice}")
        found = forms(tensors)
        for name, shape in wanted.items():
            if found[name].shape != shape:
                raise QiError(f"optimizer state: {name!r} is {found[name].shape}; {shape} was wanted; {advice}")
