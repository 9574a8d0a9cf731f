"""Wrong samplers are told what they break."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from attrs import evolve, field, frozen
from torch import Tensor

from qi_core import Condition, Denoiser, Latents, Record, Sampler, Step, Transition, Window, flow
from qi_core.stochastic import integrate, sure_step
from qi_core.testing import check_sampler


@frozen(kw_only=True)
class Steps:
    """Euler's rule, right; what follows breaks it in one place each."""

    steps: int = 40

    def sample(
        self, denoiser: Denoiser, noise: Latents, condition: Condition, *, generators: Any = (), record: Any = None
    ) -> Latents:
        x = self.start(noise)
        for i in range(self.steps):
            t = torch.full((len(x),), i / self.steps)
            x_next = self.move(x, t, denoiser.velocity(x, t, condition).tokens / self.steps, generators)
            if record is not None:
                self.tell(record, sure_step(i, t, torch.full((len(x),), (i + 1) / self.steps), x, x_next))
            x = x_next
        return x

    def start(self, noise: Latents) -> Latents:
        return noise

    def move(self, x: Latents, t: Tensor, change: Tensor, generators: Any) -> Latents:
        return x.with_tokens(x.tokens + change)

    def tell(self, record: Record, step: Step) -> None:
        record(step)


class Backward(Steps):
    def move(self, x: Latents, t: Tensor, change: Tensor, generators: Any) -> Latents:
        return x.with_tokens(x.tokens - change)


class Half(Steps):
    def move(self, x: Latents, t: Tensor, change: Tensor, generators: Any) -> Latents:
        return x.with_tokens((x.tokens + change).to(change.dtype))


class Crowd(Steps):
    def move(self, x: Latents, t: Tensor, change: Tensor, generators: Any) -> Latents:
        return x.with_tokens(x.tokens + change + 0.001 * x.tokens.mean())


class InPlace(Steps):
    def move(self, x: Latents, t: Tensor, change: Tensor, generators: Any) -> Latents:
        x.tokens.add_(change)
        return x


class Global(Steps):
    def start(self, noise: Latents) -> Latents:
        return noise.with_tokens(noise.tokens + 1e-9 * torch.randn(noise.tokens.shape))


class Sized(Steps):
    """Takes the first sample's size for all."""

    def start(self, noise: Latents) -> Latents:
        return evolve(noise, grids=noise.grids[:1] * len(noise))


@frozen(kw_only=True)
class Remembers(Steps):
    memory: list[float] = field(factory=list)

    def start(self, noise: Latents) -> Latents:
        self.memory.append(0.001)
        return noise.with_tokens(noise.tokens + sum(self.memory))


class OneForAll(Steps):
    """Draws for the whole batch from the first sample's generator."""

    def move(self, x: Latents, t: Tensor, change: Tensor, generators: Any) -> Latents:
        noise = torch.randn(x.tokens.shape, generator=generators[0])
        return x.with_tokens(x.tokens + change + 0.01 * noise)


class Silent(Steps):
    def tell(self, record: Record, step: Step) -> None:
        pass


class SkipsTheLast(Steps):
    def tell(self, record: Record, step: Step) -> None:
        if step.index < self.steps - 1:
            record(step)


class TellsHalf(Steps):
    def tell(self, record: Record, step: Step) -> None:
        record(evolve(step, mean=step.mean.bfloat16()))


class TellsAnotherStart(Steps):
    def tell(self, record: Record, step: Step) -> None:
        record(evolve(step, x=step.x.with_tokens(step.x.tokens * (1 + 1e-6))))


class TellsPercent(Steps):
    def tell(self, record: Record, step: Step) -> None:
        record(evolve(step, t=1 - step.t, t_next=1 - step.t_next))


class Improbable(Steps):
    """Is told to be noisy and forgets the density's normalisation."""

    def tell(self, record: Record, step: Step) -> None:
        record(evolve(step, std=torch.ones_like(step.std)))


@frozen(kw_only=True)
class Noisy:
    """The exact step with a fixed angle, right; what follows breaks it in one place each."""

    steps: int = 60
    kept: float = 0.98

    def times(self, lengths: Sequence[int]) -> Tensor:
        return flow.time_grid(self.steps, lengths)

    def transition(self, x: Latents, velocity: Tensor, t: Tensor, t_next: Tensor) -> Transition:
        now, then = x.per_token(t), x.per_token(t_next)
        data, noise = flow.data_estimate(x.tokens, velocity, now), flow.noise_estimate(x.tokens, velocity, now)
        std = (1 - t_next) * (1 - self.kept**2) ** 0.5
        return Transition(mean=then * data + (1 - then) * self.kept * noise, std=self.spread(std, t_next))

    def spread(self, std: Tensor, t_next: Tensor) -> Tensor:
        return std

    def noisy(self, steps: int, groups: Sequence[int], phase: int) -> Tensor:
        return Window().mask(steps, groups, phase)

    def sample(
        self,
        denoiser: Denoiser,
        noise: Latents,
        condition: Condition,
        *,
        generators: Sequence[torch.Generator] = (),
        record: Record | None = None,
    ) -> Latents:
        return integrate(self, denoiser, noise, condition, generators=generators, record=record)


class TooLoud(Noisy):
    def spread(self, std: Tensor, t_next: Tensor) -> Tensor:
        return std * 2


class Overflowing(Noisy):
    """Infinite where it isn't used."""

    def transition(self, x: Latents, velocity: Tensor, t: Tensor, t_next: Tensor) -> Transition:
        law = super().transition(x, velocity, t, t_next)
        return evolve(law, std=torch.where(t == 0, torch.inf, law.std))

    def noisy(self, steps: int, groups: Sequence[int], phase: int) -> Tensor:
        return Window(first=1, length=steps - 1).mask(steps, groups, phase)


class Detached(Noisy):
    def transition(self, x: Latents, velocity: Tensor, t: Tensor, t_next: Tensor) -> Transition:
        return super().transition(x, velocity.detach(), t, t_next)


class WindowsApart(Noisy):
    """After the first rollout, a window a sample, whatever its group."""

    def noisy(self, steps: int, groups: Sequence[int], phase: int) -> Tensor:
        return Window(length=steps - 5, moves="random").mask(steps, range(len(groups)) if phase else groups, phase)


@frozen(kw_only=True)
class OwnLoop(Noisy):
    """Samples by something else than what it says of its steps."""

    def sample(
        self,
        denoiser: Denoiser,
        noise: Latents,
        condition: Condition,
        *,
        generators: Sequence[torch.Generator] = (),
        record: Record | None = None,
    ) -> Latents:
        return integrate(Noisy(kept=0.99), denoiser, noise, condition, generators=generators, record=record)


@pytest.mark.parametrize("sampler", [Steps(), Noisy()])
def test_a_right_sampler_deterministic_or_not_passes(sampler: Sampler) -> None:
    check_sampler(sampler)


@pytest.mark.parametrize(
    ("sampler", "broken"),
    [
        (Backward(), "away from the exact flow map"),
        (Steps(steps=2), "away from the exact flow map"),
        (Half(), "not float32 all the way"),
        (Crowd(), "beside another neighbour"),
        (InPlace(), "changed the noise"),
        (Global(), "global generator of torch"),
        (Sized(), "grids"),
        (Remembers(), "two calls with the same arguments"),
        (TooLoud(), "deviation 0.5 came out with"),
        (OneForAll(), "alone than in a batch; what is drawn for it comes from its own generator"),
        (Silent(), "recorded no step"),
        (SkipsTheLast(), "does not begin with the noise and end with the latents"),
        (TellsHalf(), "was not recorded in float32"),
        (TellsAnotherStart(), "does not begin with the noise"),
        (TellsPercent(), "the recorded times are"),
        (Improbable(), "log-probability of step 0 is not that of its state"),
        (Overflowing(), "the transition is not finite"),
        (Detached(), "not differentiable in the velocity"),
        (WindowsApart(), "samples of one group have different windows"),
        (OwnLoop(), "is another when it is made again"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_wrong_sampler_is_told(sampler: Sampler, broken: str) -> None:
    with pytest.raises(AssertionError, match=rf"{type(sampler).__name__} breaks .*Sampler.*: .*{broken}"):
        check_sampler(sampler)
