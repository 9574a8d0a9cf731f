"""What a policy drew, and what it was worth: batches of reinforcement learning."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from attrs import Factory, evolve, field, frozen

from qi_core.data import Condition, Latents, all_slots, pieces
from qi_core.settings import Guidance

if TYPE_CHECKING:
    from torch import Tensor

    from qi_core.sampler import StochasticSampler


@frozen(kw_only=True, eq=False)
class NoisyStep:
    """One step of one trajectory to which noise was added. Tensors are float32 and on the CPU."""

    t: float
    t_next: float
    x: Tensor
    """(N, D) the state before it."""
    x_next: Tensor
    """(N, D) the state after it."""
    mean: Tensor
    """(N, D) of the law that ``x_next`` was drawn from."""
    std: float
    log_prob: float
    """The mean over the picture's values."""


@frozen(kw_only=True, eq=False)
class Rollout:
    """One picture that the policy drew, and how."""

    key: str
    group: str
    """The prompt's id: pictures of one group are compared with each other."""
    prompt: str
    condition: Condition
    """Of this one sample, on the CPU."""
    negative: Condition | None
    """What guidance guided away from; None where there was no guidance."""
    latents: Latents
    """x_0 as it was drawn: one sample, on the CPU."""
    steps: tuple[NoisyStep, ...]
    """Those with noise, in order; empty where the sampler adds none."""
    reward: float
    """The weighted sum."""
    rewards: Mapping[str, float]
    """By name; those that are only watched too."""
    advantage: float


@frozen(kw_only=True, eq=False)
class Rollouts:
    """What one update learns from. It may be empty: then nothing was to be learned (every group had equal rewards)."""

    items: tuple[Rollout, ...]
    sampler: StochasticSampler | None
    """The one that drew them, whose transitions are replayed; None for one that adds no noise."""
    guidance: Guidance
    """In effect while they were drawn."""
    fresh: bool
    """Whether the weights are still those that drew them: then the ratio of new to old policy is 1."""
    figures: Mapping[str, float] = field(factory=dict)
    """Of the whole rollout that this is a part of, to log: rewards, groups dropped, ..."""
    slots: tuple[int, ...] = field(default=Factory(all_slots, takes_self=True))

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Rollout]:
        return iter(self.items)

    @property
    def costs(self) -> tuple[int, ...]:
        """Tokens that the denoiser meets in one pass over the steps."""
        return tuple(
            (sum(item.latents.lengths) + sum(item.condition.lengths)) * max(len(item.steps), 1) for item in self.items
        )

    def pick(self, which: Sequence[int]) -> Rollouts:
        return evolve(self, items=tuple(self.items[i] for i in which), slots=tuple(self.slots[i] for i in which))

    def split(self, parts: int) -> Sequence[Rollouts]:
        return [evolve(self, items=self.items[own], slots=self.slots[own]) for own in pieces(len(self), parts)]
