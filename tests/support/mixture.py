"""One-dimensional data of two modes, whose velocity and law are known at every time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from attrs import frozen
from torch import Tensor

from qi_core import Condition, Latents


@frozen(kw_only=True, eq=False)
class Mixture:
    """sum_k weight_k N(mean_k, std_k^2), by the value; by default of mean 0.8 and nothing like the noise."""

    means: Sequence[float] = (-1.0, 2.0)
    stds: Sequence[float] = (0.3, 0.5)
    weights: Sequence[float] = (0.4, 0.6)

    def velocity(self, latents: Latents, t: Tensor, condition: Condition) -> Latents:
        """E[x_0 - x_1 | x_t], exactly: within a mode linear, modes weighed by how likely they are."""
        x, time = latents.tokens.double(), latents.per_token(t).double()
        laws = [self._mode(x, time, *mode) for mode in self._modes()]
        likely = torch.stack([log for log, _ in laws]).softmax(dim=0)
        v = (likely * torch.stack([v for _, v in laws])).sum(dim=0)
        return latents.with_tokens(v.to(latents.tokens.dtype))

    def score(self, x: Tensor, t: float) -> Tensor:
        """grad log p_t(x) by automatic differentiation of the density itself."""
        x = x.detach().double().requires_grad_()
        logs = [self._mode(x, torch.tensor(t), *mode)[0] for mode in self._modes()]
        (gradient,) = torch.autograd.grad(torch.stack(logs).logsumexp(dim=0).sum(), x)
        return gradient

    def cdf(self, x: Tensor) -> Tensor:
        """Of the data."""
        parts = [weight * torch.special.ndtr((x.double() - mean) / std) for weight, mean, std in self._modes()]
        return torch.stack(parts).sum(dim=0)

    def distance(self, drawn: Tensor) -> float:
        """The largest difference between the distribution of what was drawn and the data's (Kolmogorov, Smirnov)."""
        ordered = drawn.flatten().sort().values
        steps = torch.arange(1, len(ordered) + 1) / len(ordered)
        return float((self.cdf(ordered) - steps).abs().max())

    def _modes(self) -> list[tuple[float, float, float]]:
        return list(zip(self.weights, self.means, self.stds, strict=True))

    @staticmethod
    def _mode(x: Tensor, t: Tensor, weight: float, mean: float, std: float) -> tuple[Tensor, Tensor]:
        """(log density of the mode at x_t up to what modes share, velocity within it)."""
        variance = t**2 * std**2 + (1 - t) ** 2
        centred = x - t * mean
        log = torch.log(torch.as_tensor(weight) / variance.sqrt()) - centred**2 / (2 * variance)
        return log, mean + (t * std**2 - (1 - t)) / variance * centred


def line(values: Tensor) -> Latents:
    """(n,) numbers as one sample of n tokens."""
    return Latents(tokens=values[:, None], grids=((1, 1, len(values)),))


NOTHING = Condition(text=torch.zeros(0, 1), lengths=(0,))
"""Said about one sample."""
