"""A plugin for tests of reinforcement learning in whole runs: a sampler, rewards and the plainest objective."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from attrs import frozen

from qi_core import (
    Candidate,
    Condition,
    Latents,
    Loss,
    Mean,
    NoisyStep,
    Place,
    Rollout,
    Rollouts,
    Scores,
    flow,
    hookimpl,
)
from qi_core.stochastic import step_law
from support.rollouts import Wandering, brightness


@frozen(kw_only=True)
class Brightness:
    """How bright a picture is."""

    groupwise: ClassVar[bool] = False
    same: bool = False
    """All pictures alike."""

    def build(self, place: Place) -> Any:
        return self

    async def score(self, candidates: Sequence[Candidate]) -> Scores:
        return Scores(values=tuple(0.5 if self.same else brightness(candidate) for candidate in candidates))

    async def close(self) -> None: ...


@frozen(kw_only=True)
class Reinforce:
    """Advantage times log-probability of every noisy step (Williams 1992)."""

    takes: ClassVar[type] = Rollouts

    def prepare(self, batch: Rollouts, models: Any, dice: Any) -> Rollouts:
        return batch

    def loss(self, denoiser: Any, prepared: Rollouts, dice: Any) -> Loss:
        told: list[tuple[Rollout, NoisyStep]] = [(item, step) for item in prepared for step in item.steps]
        x, after = (
            Latents(tokens=torch.cat([getattr(step, name) for _, step in told]),
                    grids=tuple(item.latents.grids[0] for item, _ in told))
            for name in ("x", "x_next")
        )  # fmt: skip
        t, t_next = torch.tensor([s.t for _, s in told]), torch.tensor([s.t_next for _, s in told])
        v = denoiser.velocity(x, t, Condition.cat([item.condition for item, _ in told])).tokens
        assert prepared.sampler is not None
        mean, std = step_law(prepared.sampler, x, v, t, t_next, torch.ones(len(told), dtype=torch.bool))
        log_prob = flow.log_prob(after, mean, std)
        value = -(log_prob * torch.tensor([item.advantage for item, _ in told])).mean()
        drift = (log_prob.detach() - torch.tensor([s.log_prob for _, s in told])).abs()
        return Loss(value=value, parts={"drift": Mean(drift.sum(), torch.tensor(float(len(told))))})


@hookimpl
def qi_samplers() -> Any:
    return {"wandering": Wandering}


@hookimpl
def qi_rewards() -> Any:
    return {"shine": Brightness}


@hookimpl
def qi_objectives() -> Any:
    return {"reinforce": Reinforce}


def install(folder: Path) -> str:
    """What PYTHONPATH must be for ``qi`` to find the plugin too: a distribution in a folder."""
    info = folder / "site" / "rl_plugin-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: rl-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[qi]\nrl-plugin = support.rl_plugin\n")
    paths = [str(folder / "site"), str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
    return os.pathsep.join(path for path in paths if path)
