"""What the objectives tell beside their loss."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from qi_core import Mean, Rollouts


def mean(values: Tensor) -> Mean:
    """Over all of them."""
    values = values.detach().float()
    return Mean(values.sum(), torch.tensor(float(len(values)), device=values.device))


def means(values: Mapping[str, Tensor]) -> dict[str, Mean]:
    """By name."""
    return {name: mean(value) for name, value in values.items()}


def worth(batch: Rollouts, device: torch.device) -> dict[str, Tensor]:
    """Rewards and advantages of what is learned from; a reward that could not be told of a picture is left out."""
    found = {
        "reward": [item.reward for item in batch],
        "advantage": [item.advantage for item in batch],
        "advantage/size": [abs(item.advantage) for item in batch],
    }
    for name in sorted({name for item in batch for name in item.rewards}):
        found[f"reward/{name}"] = [item.rewards[name] for item in batch if name in item.rewards]
    return {name: torch.tensor(values, device=device) for name, values in found.items()}
