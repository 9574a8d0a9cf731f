"""A tiny policy, and rollouts that it drew itself, by the real source and sampler."""

from __future__ import annotations

from typing import Any

import torch
from attrs import evolve
from torch import Tensor

from qi_core import DenoiserModule, Dice, Loss, Models, Objective, Rollouts, Sampler, Shadow, Shadowed
from qi_core.reward import Weighted
from qi_core.testing import fakes
from qi_core.testing.contract import place
from qi_plugins.sampler_sde.samplers import ExactSde
from qi_plugins.source_rollouts.component import DrawnRollouts
from support.rollouts import Judge, Prompts

EXACT = ExactSde(steps=4, shift="none")
DICE = Dice(0, 0)


def policy() -> DenoiserModule:
    """Untrained, the same every time."""
    with place() as here:
        return fakes.network(here)


def drawn(sampler: Sampler = EXACT, model: DenoiserModule | None = None, **settings: Any) -> Rollouts:
    """Twelve pictures of two sizes in three groups, in the order in which they were drawn."""
    chosen: dict[str, Any] = {"groups": 3, "group": 4, **settings}
    component = DrawnRollouts(
        prompts=Prompts(), sampler=sampler, rewards=(Weighted(name="bright", reward=Judge()),), **chosen
    )
    with place() as here:
        source = component.build(here, 1)
        source.follow(fakes.models(model or policy()))
        try:
            batch = source.draw(12)
        finally:
            source.close()
    return evolve(batch, items=tuple(sorted(batch, key=lambda item: item.key)))


def models(objective: Objective[Any], model: DenoiserModule) -> Models:
    """With the shadows that the objective asks for."""
    rules = objective.shadows() if isinstance(objective, Shadowed) else {}
    return evolve(fakes.models(model), shadows={name: Shadow(model, rule) for name, rule in rules.items()})


def loss(objective: Objective[Any], batch: Rollouts, live: Models, dice: Dice = DICE) -> Loss:
    """As the loop does it."""
    with torch.no_grad():
        prepared = objective.prepare(batch, live, dice)
    return objective.loss(live.denoiser, prepared, dice)


def parts(found: Loss) -> dict[str, float]:
    """Means by name."""
    return {name: (mean.total / mean.count).item() for name, mean in found.parts.items()}


def gradient(value: Tensor, model: DenoiserModule) -> Tensor:
    """All of it, flat."""
    found = torch.autograd.grad(value, list(model.parameters()), allow_unused=True, materialize_grads=True)
    return torch.cat([one.flatten() for one in found])


def moved(model: DenoiserModule, size: float = 0.02) -> DenoiserModule:
    """The model, in place, a little elsewhere."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += size * torch.randn(parameter.shape, generator=generator)
    return model
