"""Keeps the noisy steps of a chunk's trajectories, picture by picture, on the CPU."""

from __future__ import annotations

import torch
from torch import Tensor

from qi_core.rollouts import NoisyStep
from qi_core.sampler import Step


class Recorder:
    """A ``Record``. Steps without noise can't be trained and are not kept."""

    def __init__(self, count: int) -> None:
        self.steps: list[list[NoisyStep]] = [[] for _ in range(count)]
        self._at = -1
        self._after: list[Tensor] = []

    def __call__(self, step: Step) -> None:
        stds = step.std.tolist()
        if not any(stds):
            return
        lengths = list(step.x.lengths)
        # A state between two noisy steps is kept once, as the end of the one and the beginning of the other.
        before = self._after if step.index == self._at + 1 and self._after else _apart(step.x.tokens, lengths)
        means, after = _apart(step.mean, lengths), _apart(step.x_next.tokens, lengths)
        rows = zip(step.t.tolist(), step.t_next.tolist(), stds, step.log_prob.tolist(), strict=True)
        for i, (t, t_next, std, log_prob) in enumerate(rows):
            if std > 0:
                self.steps[i].append(
                    NoisyStep(
                        t=t,
                        t_next=t_next,
                        x=before[i],
                        x_next=after[i],
                        mean=means[i],
                        std=std,
                        log_prob=log_prob,
                    )
                )
        self._at, self._after = step.index, after


def _apart(tokens: Tensor, lengths: list[int]) -> list[Tensor]:
    """(N, D) -> one float32 tensor a picture, each with memory of its own: a part of a batch would keep it all."""
    return [part.clone() for part in torch.split(tokens.float().cpu(), lengths)]
