"""One rollout: prompts in groups -> sampler -> pictures -> rewards, which work while the next pictures are drawn.

Everything random follows from the seed, the rollout's number and the place of the picture in it, so that how pictures
are cut into chunks, or dealt over replicas, changes nothing that is drawn.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from math import prod

import torch
from attrs import evolve, field, frozen
from torch import Tensor

from qi_core.asking import together
from qi_core.data import Condition, Latents
from qi_core.dealing import balanced, is_first, of_replicas
from qi_core.denoiser import Called, Denoiser
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
    """(3, H, W) uint8; None where it holds values that are no numbers, and once it is judged."""


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
        """The rollout of that number, the same on all ranks. Raises QiError where a reward cannot do its work at all.

        Whole groups are dealt over replicas, each draws its own, and its first rank has them judged.
        """
        self._seconds.clear()
        dice, strategy, size = Dice(self.seed, number), self.models.strategy, self.settings.group
        judges = is_first(strategy)
        with torch.no_grad(), strategy.autocast(), evaluating(self.models):
            groups = self._groups(tasks, number)
            dealt = balanced([self._tokens(group) for group in groups], strategy.replicas)
            pictures = [[group * size + i for group in own for i in range(size)] for own in dealt]
            mine = pictures[strategy.replica]
            judging = Judging(self.settings, self.scorer, [groups[group] for group in dealt[strategy.replica]])
            drawn: list[Picture] = []
            for start in range(0, max(map(len, pictures)), self.settings.chunk):
                which = mine[start : start + self.settings.chunk]
                # As many passes as the others make, who may need this rank's part of the weights: never seen.
                some = self._draw(which or [0], groups, number, dice)[: len(which)]
                drawn += some
                together(strategy.team, partial(judging.judge, some if judges else ()))
        with self._watch("waiting"):
            told = together(strategy.team, judging.gather)
        return self._put_together(groups, pictures, drawn, told)

    def _tokens(self, group: Group) -> int:
        """Of one of its pictures, as the denoiser meets it."""
        condition = group.condition
        references = sum(condition.references.lengths) if condition.references is not None else 0
        return prod(self.models.encoders.grid(*group.task.size)) + sum(condition.lengths) + references

    def _put_together(
        self, groups: Sequence[Group], which: Sequence[Sequence[int]], drawn: Sequence[Picture], told: Told
    ) -> Phase:
        """What all replicas drew and were told, on every rank. ``which``: the numbers of each one's pictures."""
        strategy = self.models.strategy
        with self._watch("exchange"):
            found: dict[int, Picture] = {}
            for turn in range(max(map(len, which))):  # one a replica at a time: what is on its way is in memory too
                own = evolve(drawn[turn], image=None) if turn < len(drawn) else None
                for numbers, picture in zip(which, of_replicas(strategy, own), strict=True):
                    if picture is not None:
                        found[numbers[turn]] = picture
            verdicts = of_replicas(strategy, told)
        failures: Counter[str] = Counter()
        scores: dict[str, dict[int, float | None]] = {weighted.name: {} for weighted in self.settings.rewards}
        for numbers, one in zip(which, verdicts, strict=True):
            failures.update(one.failures)
            for name, values in one.scores.items():
                scores[name] |= dict(zip(numbers, values, strict=True))
        seconds = of_replicas(strategy, dict(self._seconds))
        return Phase(
            groups=tuple(groups),
            pictures=tuple(found[number] for number in range(len(found))),
            scores={name: tuple(values[number] for number in range(len(found))) for name, values in scores.items()},
            failures=failures,
            seconds={name: max(own[name] for own in seconds) for name in self._seconds},
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

    def _draw(self, which: Sequence[int], groups: Sequence[Group], number: int, dice: Dice) -> list[Picture]:
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
            # With memory of their own: a part of a batch would keep, and send to other ranks, all of it.
            apart = [one.with_tokens(one.tokens.clone()) for one in latents.to(torch.device("cpu")).split()]
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
        denoiser: Denoiser = Called(self.models.denoiser)
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


@frozen(kw_only=True, eq=False)
class Told:
    """What was said of a replica's pictures."""

    scores: Mapping[str, tuple[float | None, ...]]
    """By reward: a value a picture, in the order in which they were drawn."""
    failures: Mapping[str, int]
    """Why values are missing, counted."""


class Judging:
    """Hands pictures to the rewards as they come, and gathers what was said of them at the end. ``groups``: those that
    are drawn here."""

    def __init__(self, settings: Drawing, scorer: Scorer, groups: Sequence[Group]) -> None:
        self._names = [weighted.name for weighted in settings.rewards]
        self._compared = any(weighted.reward.groupwise for weighted in settings.rewards)
        self._size, self._groups = settings.group, groups
        self._scorer = scorer
        self._waiting: list[Candidate] = []
        self._asked: list[tuple[list[str], Future[dict[str, Scores]]]] = []
        self._keys: list[str] = []

    def judge(self, pictures: Sequence[Picture]) -> None:
        """Submits what can be: everything, or where a reward compares, whole groups. Raises what a reward raised."""
        for _, future in self._asked:
            if future.done():
                verdict(future)
        for picture in pictures:
            group = self._groups[len(self._keys) // self._size]
            self._keys.append(picture.key)
            if picture.image is not None:
                self._waiting.append(candidate(picture, group))
        cut = self._compared and len(self._keys) % self._size
        part = self._groups[len(self._keys) // self._size].id if cut else None
        ready = [c for c in self._waiting if c.group != part]
        self._waiting = [c for c in self._waiting if c.group == part]
        if ready:
            self._asked.append(([c.key for c in ready], self._scorer.submit(ready)))

    def gather(self) -> Told:
        """Waits for all that was asked."""
        found: dict[str, dict[str, float | None]] = {name: {} for name in self._names}
        failures: Counter[str] = Counter()
        for keys, future in self._asked:
            for name, scores in verdict(future).items():
                found[name] |= dict(zip(keys, scores.values, strict=True))
                failures.update({f"reward {name}: {reason}": count for reason, count in scores.failures.items()})
        judged = sum(len(keys) for keys, _ in self._asked)
        if unfit := len(self._keys) - judged:
            failures["pictures with values that are no numbers"] = unfit
        return Told(
            scores={name: tuple(values.get(key) for key in self._keys) for name, values in found.items()},
            failures=failures,
        )


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
