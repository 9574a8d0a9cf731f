"""Small parts for tests of rollouts: a sampler that adds noise, prompts without pictures, rewards that do as told."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from attrs import field, frozen
from torch import Tensor

from qi_core import (
    Candidate,
    Condition,
    Denoiser,
    Latents,
    Place,
    Record,
    Sample,
    Samples,
    Scores,
    Transition,
    Window,
    flow,
)
from qi_core.stochastic import integrate


@frozen(kw_only=True)
class Wandering:
    """The exact step of flow-math with rho = 0.5: a sampler whose steps are Gaussian at both ends."""

    steps: int = 3
    window: Window = field(factory=Window)

    def times(self, lengths: Sequence[int]) -> Tensor:
        return flow.time_grid(self.steps, lengths)

    def transition(self, x: Latents, velocity: Tensor, t: Tensor, t_next: Tensor) -> Transition:
        time, after = x.per_token(t), x.per_token(t_next)
        data, noise = flow.data_estimate(x.tokens, velocity, time), flow.noise_estimate(x.tokens, velocity, time)
        return Transition(mean=after * data + (1 - after) * 0.5 * noise, std=(1 - t_next) * 0.75**0.5)

    def noisy(self, steps: int, groups: Sequence[int], phase: int) -> Tensor:
        return self.window.mask(steps, groups, phase)

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


@frozen(kw_only=True)
class Limping(Wandering):
    """Adds noise at every other step."""

    def noisy(self, steps: int, groups: Sequence[int], phase: int) -> Tensor:
        return (torch.arange(steps) % 2 == 0)[:, None].expand(-1, len(groups))


@frozen(kw_only=True)
class Prompts:
    """Samples with these prompts, round and round, of different sizes."""

    gives: ClassVar[type] = Samples
    words: tuple[str, ...] = ("ab", "cd", "ef", "g", "hi")
    references: bool = False

    def build(self, place: Place, multiple: int) -> Any:
        return _Prompts(self)


class _Prompts:
    def __init__(self, settings: Prompts) -> None:
        self._settings, self._n = settings, 0

    def draw(self, count: int) -> Samples:
        own = range(self._n, self._n + count)
        self._n += count
        return Samples(items=tuple(map(self._sample, own)))

    def _sample(self, n: int) -> Sample:
        words = self._settings.words
        image = torch.full((3, 2, 2 + n % 2), n, dtype=torch.uint8)
        word = words[n % len(words)]
        references = (image,) if self._settings.references else ()
        return Sample(key=str(n % len(words)), prompt=word, image=image, text=word.upper(), references=references)

    def state_dict(self) -> dict[str, Any]:
        return {"n": self._n}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._n = state["n"]

    def report(self) -> dict[str, int]:
        return {}


def brightness(candidate: Candidate) -> float:
    """In [0, 1]."""
    return float(candidate.image.float().mean()) / 255


@frozen(kw_only=True)
class Judge:
    """What a function says of each picture; None where it could not be told."""

    groupwise: ClassVar[bool] = False
    says: Callable[[Candidate], float | None] = brightness

    def build(self, place: Place) -> Any:
        return _Judge(self.says)


class _Judge:
    def __init__(self, says: Callable[[Candidate], float | None]) -> None:
        self._says = says

    async def score(self, candidates: Sequence[Candidate]) -> Scores:
        return Scores(values=tuple(map(self._says, candidates)))

    async def close(self) -> None: ...


@frozen(kw_only=True)
class Ranking:
    """How many pictures of its group a picture is brighter than."""

    groupwise: ClassVar[bool] = True
    seen: list[list[str]]
    """The group of each candidate, call by call."""

    def build(self, place: Place) -> Any:
        return self

    async def score(self, candidates: Sequence[Candidate]) -> Scores:
        self.seen.append([candidate.group for candidate in candidates])
        light = [(candidate.group, brightness(candidate)) for candidate in candidates]
        return Scores(
            values=tuple(float(sum(own > other for group, other in light if group == at)) for at, own in light)
        )

    async def close(self) -> None: ...


@frozen(kw_only=True)
class Waiting:
    """Says nothing of its first pictures before something else has happened."""

    groupwise: ClassVar[bool] = False
    happened: threading.Event
    begun: threading.Event

    def build(self, place: Place) -> Any:
        return self

    async def score(self, candidates: Sequence[Candidate]) -> Scores:
        self.begun.set()
        seen = await asyncio.to_thread(self.happened.wait, 20)
        return Scores(values=tuple(brightness(c) if seen else None for c in candidates))

    async def close(self) -> None: ...
