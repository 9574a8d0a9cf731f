"""One rollout: prompts in groups -> sampler -> pictures -> rewards, which work while the next pictures are drawn.

Everything random follows from the seed, the rollout's number and the place of the picture in it, so that how pictures
are cut into chunks changes nothing that is drawn.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager

import torch
from attrs import field, frozen
from torch import Tensor

from qi_core.data import Condition, Latents
from qi_core.denoiser import Denoiser
from qi_core.dice import Dice
from qi_core.flow import Guided
from qi_core.generate import eight_bits
from qi_core.models import Models
from qi_core.reward import Candidate, Scores
from qi_core.rollouts import NoisyStep
from qi_core.sampler import StochasticSampler
from qi_core.scoring import Scorer, verdict
from qi_core.stochastic import integrate
from qi_plugins.source_rollouts.component import Drawing
from qi_plugins.source_rollouts.prompts import Task
from qi_plugins.source_rollouts.recorder import Recorder

PROMPTS_AT_ONCE = 16
"""Encoded in one batch: a number of its own, so that ``chunk`` changes no condition."""


@frozen(kw_only=True, eq=False)
class Group:
    """A prompt and what the model is told of it, encoded once for all its pictures; on the CPU."""

    id: str
    task: Task
    condition: Condition
    negative: Condition | None


@frozen(kw_only=True, eq=False)
class Picture:
    """One picture of a rollout; on the CPU."""

    key: str
    group: int
    latents: Latents
    steps: tuple[NoisyStep, ...]
    image: Tensor | None
    """(3, H, W) uint8; None where it holds values that are no numbers."""


@frozen(kw_only=True, eq=False)
class Phase:
    """A whole rollout, judged."""

    groups: tuple[Group, ...]
    pictures: tuple[Picture, ...]
    """Those of a group stand together."""
    scores: Mapping[str, tuple[float | None, ...]]
    """By reward: a value a picture."""
    failures: Mapping[str, int]
    """Why values are missing, counted."""
    seconds: Mapping[str, float]


@frozen(kw_only=True, eq=False)
class Artist:
    """Draws rollouts with the weights of the moment."""

    settings: Drawing
    models: Models
    scorer: Scorer
    seed: int
    _seconds: dict[str, float] = field(factory=dict, init=False)

    def phase(self, tasks: Sequence[Task], number: int) -> Phase:
        """The rollout of that number. Raises QiError where a reward cannot do its work at all."""
        self._seconds.clear()
        dice = Dice(self.seed, number)
        judging = Judging(self.settings, self.scorer)
        pictures: list[Picture] = []
        with torch.no_grad(), self.models.strategy.autocast(), evaluating(self.models):
            groups = self._groups(tasks, number)
            count, size = len(tasks) * self.settings.group, self.settings.chunk
            for start in range(0, count, size):
                drawn = self._draw(range(start, min(start + size, count)), groups, number, dice)
                pictures += drawn
                judging.judge(drawn, groups, last=len(pictures) == count)
        with self._watch("waiting"):
            scores, failures = judging.gather()
        return Phase(
            groups=tuple(groups),
            pictures=tuple(pictures),
            scores=scores,
            failures=failures,
            seconds=dict(self._seconds),
        )

    def _groups(self, tasks: Sequence[Task], number: int) -> list[Group]:
        encoders, device = self.models.encoders, torch.device("cpu")
        guided = self.settings.guidance.scale != 1.0
        found: list[Group] = []
        with self._watch("encoding"):
            for start in range(0, len(tasks), PROMPTS_AT_ONCE):
                own = tasks[start : start + PROMPTS_AT_ONCE]
                references = [task.references for task in own] if any(task.references for task in own) else ()
                conditions = encoders.condition([task.prompt for task in own], references).to(device).split()
                negatives: Sequence[Condition | None] = [None] * len(own)
                if guided:
                    prompts = [self.settings.guidance.negative] * len(own)
                    negatives = encoders.condition(prompts, references).to(device).split()
                found += [
                    Group(id=f"{number}.{start + i}/{task.id}", task=task, condition=condition, negative=negative)
                    for i, (task, condition, negative) in enumerate(zip(own, conditions, negatives, strict=True))
                ]
        return found

    def _draw(self, which: range, groups: Sequence[Group], number: int, dice: Dice) -> list[Picture]:
        """Pictures number ``which`` of the rollout."""
        settings, encoders = self.settings, self.models.encoders
        device = self.models.strategy.device
        members = [i // settings.group for i in which]
        own = [groups[member] for member in members]
        with self._watch("sampling"):
            grids = tuple(encoders.grid(*group.task.size) for group in own)
            slots = members if settings.shared_noise else which
            width = encoders.autoencoder.width
            noise = [
                torch.randn(frames * rows * columns, width, generator=dice.roll(slot, "noise"))
                for slot, (frames, rows, columns) in zip(slots, grids, strict=True)
            ]
            recorder = Recorder(len(own))
            latents = self._sample(
                Latents(tokens=torch.cat(noise).to(device), grids=grids),
                own,
                generators=[dice.roll(i, "sampler") for i in which],
                members=members,
                number=number,
                recorder=recorder,
            )
        with self._watch("decoding"):
            images = [eight_bits(image) for image in encoders.autoencoder.decode(latents, whole=True)]
            apart = latents.to(torch.device("cpu")).split()
        return [
            Picture(key=f"{group.id}/{i % settings.group}", group=member, latents=one, steps=tuple(steps), image=image)
            for i, member, group, one, steps, image in zip(
                which, members, own, apart, recorder.steps, images, strict=True
            )
        ]

    def _sample(
        self,
        noise: Latents,
        own: Sequence[Group],
        *,
        generators: list[torch.Generator],
        members: Sequence[int],
        number: int,
        recorder: Recorder,
    ) -> Latents:
        """x_0. Where the sampler can be replayed, its noisy steps are recorded; a group shares one window."""
        device, sampler = noise.tokens.device, self.settings.sampler
        condition = Condition.cat([group.condition for group in own]).to(device)
        denoiser: Denoiser = self.models.denoiser
        negatives = [group.negative for group in own if group.negative is not None]
        if negatives:
            denoiser = Guided(denoiser, Condition.cat(negatives).to(device), self.settings.guidance)
        if not isinstance(sampler, StochasticSampler):
            return sampler.sample(denoiser, noise, condition, generators=generators)
        noisy = sampler.noisy(len(sampler.times(noise.lengths)) - 1, members, number)
        return integrate(sampler, denoiser, noise, condition, generators=generators, record=recorder, noisy=noisy)

    @contextmanager
    def _watch(self, name: str) -> Generator[None]:
        began = time.perf_counter()
        yield
        self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - began


class Judging:
    """Hands pictures to the rewards as they come, and gathers what was said of them at the end."""

    def __init__(self, settings: Drawing, scorer: Scorer) -> None:
        self._names = [weighted.name for weighted in settings.rewards]
        self._whole = settings.group if any(weighted.reward.groupwise for weighted in settings.rewards) else 1
        self._scorer = scorer
        self._waiting: list[Candidate] = []
        self._total = 0
        self._asked: list[tuple[list[str], Future[dict[str, Scores]]]] = []
        self._keys: list[str] = []

    def judge(self, pictures: Sequence[Picture], groups: Sequence[Group], last: bool) -> None:
        """Submits what can be: everything, or where a reward compares, whole groups. Raises what a reward raised."""
        for _, future in self._asked:
            if future.done():
                verdict(future)
        self._total += len(pictures)
        self._keys += [picture.key for picture in pictures]
        self._waiting += [
            candidate(picture, groups[picture.group]) for picture in pictures if picture.image is not None
        ]
        part = groups[self._total // self._whole].id if self._whole > 1 and not last else None
        ready = [c for c in self._waiting if c.group != part]
        self._waiting = [c for c in self._waiting if c.group == part]
        if ready:
            self._asked.append(([c.key for c in ready], self._scorer.submit(ready)))

    def gather(self) -> tuple[dict[str, tuple[float | None, ...]], dict[str, int]]:
        """By reward, a value a picture; why values are missing, counted."""
        found: dict[str, dict[str, float | None]] = {name: {} for name in self._names}
        failures: dict[str, int] = {}
        for keys, future in self._asked:
            for name, scores in verdict(future).items():
                found[name] |= dict(zip(keys, scores.values, strict=True))
                for reason, count in scores.failures.items():
                    told = f"reward {name}: {reason}"
                    failures[told] = failures.get(told, 0) + count
        judged = sum(len(keys) for keys, _ in self._asked)
        if unfit := len(self._keys) - judged:
            failures["pictures with values that are no numbers"] = unfit
        return {name: tuple(values.get(key) for key in self._keys) for name, values in found.items()}, failures


def candidate(picture: Picture, group: Group) -> Candidate:
    """As rewards see it."""
    assert picture.image is not None
    task = group.task
    return Candidate(
        key=picture.key,
        group=group.id,
        prompt=task.prompt,
        image=picture.image,
        text=task.text,
        references=task.references,
    )


@contextmanager
def evaluating(models: Models) -> Generator[None]:
    """Dropout and the like off, and afterwards as before."""
    training = models.denoiser.training
    models.denoiser.eval()
    try:
        yield
    finally:
        models.denoiser.train(training)
