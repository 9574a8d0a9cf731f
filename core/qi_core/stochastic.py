"""What samplers that add noise share: the way from noise to data with a Gaussian law at each step, and windows.

Inside its window a trajectory is stochastic and its steps can be trained; outside it follows the ordinary equation
(MixGRPO, arXiv 2507.21802; Flow-GRPO-Fast).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from attrs import Attribute, field, frozen, validators

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from qi_core.data import Condition, Latents
    from qi_core.denoiser import Denoiser
    from qi_core.sampler import Record, Step, StochasticSampler


def _within(instance: Window, attribute: Attribute[Any], value: Any) -> None:
    if value not in (0, "fixed") and not instance.length:
        raise ValueError(f"'{attribute.name}' says where the window is; give its 'length' too")


def _last(instance: Window, _: Attribute[int], value: int) -> None:
    if value and instance.moves == "fixed":
        raise ValueError("'latest' bounds a window that moves; with moves = \"fixed\" leave it out")
    if value and value < instance.first:
        raise ValueError(f"'latest' must be >= 'first', {instance.first}: {value}")


@frozen(kw_only=True)
class Window:
    """Which steps of a sampler add noise."""

    length: int = field(default=0, validator=validators.ge(0))
    """Steps in the window; 0: all of them."""
    first: int = field(default=0, validator=[validators.ge(0), _within])
    """The step it begins with (or, where it moves, the earliest that it may begin with), counted from 0."""
    moves: Literal["fixed", "random", "progressive"] = field(default="fixed", validator=_within)
    """``random``: elsewhere for each group of each rollout. ``progressive``: from early to late steps as training goes
    on, and round again."""
    latest: int = field(default=0, validator=[validators.ge(0), _last])
    """Where it moves: the latest step it may begin with; 0: as late as fits."""
    every: int = field(default=25, validator=validators.gt(0))
    """``progressive``: rollouts between two moves."""
    seed: int = field(default=0, validator=validators.ge(0))
    """``random``: decides where."""

    def mask(self, steps: int, groups: Sequence[int], phase: int) -> Tensor:
        """(S, B) bool; see ``qi_core.sampler.StochasticSampler.noisy``."""
        import torch

        if not self.length:
            return torch.ones(steps, len(groups), dtype=torch.bool)
        begins = torch.tensor([self._begin(steps, group, phase) for group in groups])
        index = torch.arange(steps)[:, None]
        return (index >= begins) & (index < begins + self.length)

    def _begin(self, steps: int, group: int, phase: int) -> int:
        """The first step of the window, which is never cut off by the last step of all."""
        latest = max(min(self.latest or steps, steps - self.length), 0)
        first = min(self.first, latest)
        if self.moves == "fixed":
            return first
        if self.moves == "progressive":
            return first + phase // self.every % (latest - first + 1)
        name = f"{self.seed}/window/{phase}/{group}".encode()
        number = int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little")
        return first + number % (latest - first + 1)


def integrate(
    sampler: StochasticSampler,
    denoiser: Denoiser,
    noise: Latents,
    condition: Condition,
    *,
    generators: Sequence[torch.Generator],
    record: Record | None = None,
    noisy: Tensor | None = None,
) -> Latents:
    """``Sampler.sample`` of a stochastic sampler.

    ``generators``: one a sample. ``noisy``: (S, B), see ``StochasticSampler.noisy``; unsaid, all samples are one
    group of the first rollout, so that a sample's window does not depend on its neighbours. Raises QiError without a
    generator for each sample, and for noise that is not float32.
    """
    import torch

    from qi_core import flow
    from qi_core.errors import QiError
    from qi_core.sampler import Step

    if noise.tokens.dtype != torch.float32:
        raise QiError(
            f"{type(sampler).__name__}: noise in {noise.tokens.dtype}; float32 is wanted: with less, the ratio of a "
            "policy with itself is not 1; convert it (the denoiser may still answer in bfloat16)"
        )
    if len(generators) != len(noise):
        raise QiError(
            f"{type(sampler).__name__}: {len(generators)} generators for {len(noise)} samples; a sampler that adds "
            "noise wants one a sample"
        )
    device = noise.tokens.device
    times = sampler.times(noise.lengths).to(device)
    steps = len(times) - 1
    noisy = sampler.noisy(steps, (0,) * len(noise), 0) if noisy is None else noisy
    x = noise
    for index in range(steps):
        t, t_next = times[index], times[index + 1]
        v = denoiser.velocity(x, t, condition).tokens.float()
        mean, std = step_law(sampler, x, v, t, t_next, noisy[index].to(device))
        x_next = x.with_tokens(mean + x.per_token(std) * _draw(x, noisy[index], generators))
        if record is not None:
            log_prob = flow.log_prob(x_next, mean, std)
            record(Step(index=index, t=t, t_next=t_next, x=x, mean=mean, std=std, x_next=x_next, log_prob=log_prob))
        x = x_next
    return x


def sure_step(index: int, t: Tensor, t_next: Tensor, x: Latents, x_next: Latents) -> Step:
    """A step without noise, for the record of a deterministic sampler."""
    import torch

    from qi_core.sampler import Step

    none = torch.zeros_like(t)
    return Step(index=index, t=t, t_next=t_next, x=x, mean=x_next.tokens, std=none, x_next=x_next, log_prob=none)


def step_law(
    sampler: StochasticSampler, x: Latents, velocity: Tensor, t: Tensor, t_next: Tensor, noisy: Tensor
) -> tuple[Tensor, Tensor]:
    """(mean (N, D), std (B,)) of a step. Samples that are not ``noisy`` (B,) take Euler's step."""
    import torch

    straight = x.tokens + x.per_token(t_next - t) * velocity
    if not bool(noisy.any()):
        return straight, torch.zeros_like(t)
    law = sampler.transition(x, velocity, t, t_next)
    if bool(noisy.all()):
        return law.mean, law.std
    inside = x.per_token(noisy.float()).bool()
    return torch.where(inside, law.mean, straight), torch.where(noisy, law.std, torch.zeros_like(law.std))


def _draw(x: Latents, noisy: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """(N, D) noise, zero for samples outside their window; each sample's is its own generator's next."""
    import torch

    noise = torch.zeros(x.tokens.shape)
    for own, adds, generator in zip(torch.split(noise, list(x.lengths)), noisy.tolist(), generators, strict=True):
        if adds:
            own.normal_(generator=generator)
    return noise.to(x.tokens.device)
