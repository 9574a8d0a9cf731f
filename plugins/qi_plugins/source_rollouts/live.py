"""The live sources: a rollout is drawn when the last one is used up, and cut into updates."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Generic, TypeVar

from attrs import evolve
from torch import Tensor

from qi_core.data import Pair, Pairs
from qi_core.dealing import is_first
from qi_core.dice import Dice
from qi_core.errors import QiError
from qi_core.models import Models
from qi_core.place import Place
from qi_core.rollouts import Rollout, Rollouts
from qi_core.sampler import StochasticSampler
from qi_core.scoring import Scorer
from qi_plugins.source_rollouts import keeping
from qi_plugins.source_rollouts.component import Drawing, DrawnRollouts, RankedRollouts
from qi_plugins.source_rollouts.phase import Artist, Phase
from qi_plugins.source_rollouts.prompts import FromFile, FromSource, Prompts, Reader
from qi_plugins.source_rollouts.verdict import Verdict

Item = TypeVar("Item", Rollout, Pair)
BatchOf = TypeVar("BatchOf", Rollouts, Pairs)


class OnPolicySource(ABC, Generic[Item, BatchOf]):
    """What both sources share: see ``qi_core.source`` (Source, OnPolicy)."""

    def __init__(self, settings: Drawing, place: Place, multiple: int) -> None:
        self.settings = settings
        self._seed = _number(f"{place.seed}/rollouts/{settings.seed}")
        self._prompts = _prompts(settings, place, self._seed, multiple)
        self._rewards = {weighted.name: weighted.reward.build(place) for weighted in settings.rewards}
        self._scorer: Scorer | None = None
        self._models: Models | None = None
        self._phase = 0
        """Rollouts drawn so far."""
        self._left: list[list[int]] = []
        """The updates that are still to come of the last one, each by the numbers of its items."""
        self._items: dict[int, Item] = {}
        self._untouched = True
        self._figures: dict[str, float] = {}
        self._kept: dict[str, Any] | None = None
        self.skipped: Counter[str] = Counter()

    @property
    @abstractmethod
    def size(self) -> int:
        """Items of a whole rollout."""

    @property
    def apart(self) -> bool:
        """Whether rewards are compared one by one; see ``advantages.ties``."""
        return False

    @abstractmethod
    def items(self, phase: Phase, verdict: Verdict) -> dict[int, Item]:
        """What can be learned from, each by a number of its own. What is left out is counted in ``skipped``."""

    @abstractmethod
    def batch(self, items: tuple[Item, ...], fresh: bool) -> BatchOf:
        """Of one update."""

    @abstractmethod
    def keep(self, items: Mapping[int, Item]) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """As JSON values and tensors."""

    @abstractmethod
    def take(self, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[int, Item]:
        """Back."""

    def follow(self, models: Models) -> None:
        """See ``OnPolicy.follow``. Of ranks that draw the same pictures the first one judges them."""
        self._models = models
        if not is_first(models.strategy):
            self._scorer = Scorer(self._rewards)
            self._scorer.close()
            self._rewards = {}  # what models they hold is let go of

    def draw(self, count: int) -> BatchOf:
        """What one update learns from: at most ``count`` items, none if there was nothing to learn."""
        if self.size % count:
            raise QiError(
                f"train.batch: {count}; a rollout gives {self.size} ({self._sizes()}), and wanted is a number that "
                "divides it; change train.batch or the source"
            )
        if not self._left:
            self._begin(self.size // count)
        numbers = self._left.pop(0)
        fresh, self._untouched = self._untouched, self._untouched and not numbers
        drawn = tuple(self._items[number] for number in numbers)
        needed = {number for numbers in self._left for number in numbers}
        self._items = {number: item for number, item in self._items.items() if number in needed}
        return self.batch(drawn, fresh)

    def state_dict(self) -> dict[str, Any]:
        return {
            "phase": self._phase,
            "prompts": self._prompts.state_dict(),
            "left": [list(numbers) for numbers in self._left],
            "untouched": self._untouched,
            "figures": dict(self._figures),
            "skipped": dict(self.skipped),
            "settings": self._settings(),
            "items": self.keep(self._items)[0],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._phase, self._untouched = state["phase"], state["untouched"]
        self._prompts.load_state_dict(state["prompts"])
        self._figures, self.skipped = dict(state["figures"]), Counter(state["skipped"])
        self._left, self._items, self._kept = [list(numbers) for numbers in state["left"]], {}, state["items"]
        if self._left and state["settings"] != self._settings():
            lost = len({number for numbers in self._left for number in numbers})
            self.skipped["pictures drawn under other settings, before a resume"] += lost
            self._left, self._kept = [], None

    def tensors(self) -> Mapping[str, Tensor]:
        """See ``OnPolicy.tensors``."""
        return self.keep(self._items)[1]

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """See ``OnPolicy.load_tensors``."""
        if self._kept is not None:
            self._items = self.take(self._kept, tensors)
            self._kept = None

    def report(self) -> dict[str, int]:
        return {**self._prompts.report(), **+self.skipped}

    def figures(self) -> Mapping[str, float]:
        """See ``OnPolicy.figures``."""
        return self._figures

    def close(self) -> None:
        """See ``qi_core.place.Closing``. Rewards were built, and are closed, whether or not anything was drawn."""
        self._scorer = self._scorer or Scorer(self._rewards)
        self._scorer.close()
        self._prompts.close()

    def _begin(self, updates: int) -> None:
        """Draw a rollout, and cut it into so many updates a pass, each pass in an order of its own."""
        import torch

        if self._models is None:
            raise QiError(f"source: {type(self.settings).__name__} draws with a model, and was given none to follow")
        self._scorer = self._scorer or Scorer(self._rewards)
        artist = Artist(settings=self.settings, models=self._models, scorer=self._scorer, seed=self._seed)
        phase = artist.phase(self._prompts.draw(self.settings.groups), self._phase)
        verdict = Verdict.of(self.settings, phase)
        self.skipped.update(phase.failures)
        self._items = self.items(phase, verdict)
        told = {
            **verdict.figures(self.apart),
            **self._told(self._items.values()),
            "left out": 1 - len(self._items) / self.size,
            **{f"seconds/{name}": value for name, value in phase.seconds.items()},
        }
        self._figures = {f"rollout/{name}": value for name, value in told.items()}
        numbers, dice = list(self._items), Dice(self._seed, self._phase)
        for turn in range(self.settings.passes):
            lots = torch.randperm(len(numbers), generator=dice.roll(turn, "order")).tolist()
            ends = [len(numbers) * i // updates for i in range(updates + 1)]
            self._left += [[numbers[i] for i in lots[a:b]] for a, b in pairwise(ends)]
        self._untouched, self._phase = True, self._phase + 1

    def _told(self, items: Any) -> dict[str, float]:
        """Figures of the items."""
        return {}

    def _settings(self) -> str:
        """Tells settings apart under which pictures mean something else."""
        return hashlib.sha256(repr(evolve(self.settings, chunk=1, changed="refuse")).encode()).hexdigest()[:16]

    @abstractmethod
    def _sizes(self) -> str:
        """How ``size`` comes about, for an error."""


class RolloutSource(OnPolicySource[Rollout, Rollouts]):
    """A live ``rollouts``."""

    settings: DrawnRollouts

    @property
    def size(self) -> int:
        return self.settings.groups * self.settings.group

    @property
    def apart(self) -> bool:
        return self.settings.advantage == "per-reward"

    def items(self, phase: Phase, verdict: Verdict) -> dict[int, Rollout]:
        settings = self.settings
        values = verdict.advantages(settings.advantage, settings.eps)
        tied = verdict.ties(self.apart)
        self.skipped["groups with equal rewards"] += len(tied) if settings.drop_ties else 0
        found: dict[int, Rollout] = {}
        for number, value in values.items():
            picture = phase.pictures[number]
            group = phase.groups[picture.group]
            if picture.group in tied and settings.drop_ties:
                continue
            found[number] = Rollout(
                key=picture.key,
                group=group.id,
                prompt=group.task.prompt,
                condition=group.condition,
                negative=group.negative,
                latents=picture.latents,
                steps=picture.steps,
                reward=verdict.totals[number],
                rewards=verdict.rewards(number),
                advantage=min(max(value, -settings.advantage_clip), settings.advantage_clip),
            )
        return found

    def batch(self, items: tuple[Rollout, ...], fresh: bool) -> Rollouts:
        sampler = self.settings.sampler
        return Rollouts(
            items=items,
            sampler=sampler if isinstance(sampler, StochasticSampler) else None,
            guidance=self.settings.guidance,
            fresh=fresh,
            figures=dict(self._figures),
        )

    def keep(self, items: Mapping[int, Rollout]) -> tuple[dict[str, Any], dict[str, Tensor]]:
        return keeping.keep_rollouts(items)

    def take(self, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[int, Rollout]:
        return keeping.take_rollouts(state, tensors)

    def _told(self, items: Any) -> dict[str, float]:
        sizes = [item.advantage for item in items]
        if not sizes:
            return {}
        return {
            "advantage": sum(sizes) / len(sizes),
            "advantage/size": sum(map(abs, sizes)) / len(sizes),
            "advantage/clipped": sum(abs(value) >= self.settings.advantage_clip for value in sizes) / len(sizes),
        }

    def _sizes(self) -> str:
        return f"groups = {self.settings.groups} times group = {self.settings.group}"


class RankedSource(OnPolicySource[Pair, Pairs]):
    """A live ``ranked-rollouts``."""

    settings: RankedRollouts

    @property
    def size(self) -> int:
        return self.settings.groups

    def items(self, phase: Phase, verdict: Verdict) -> dict[int, Pair]:
        tied = verdict.ties(self.apart)
        self.skipped["groups with equal rewards"] += len(tied)
        found: dict[int, Pair] = {}
        margins: list[float] = []
        for number, own in verdict.groups().items():
            if number in tied:
                continue
            # The first of equals, so that nothing but the rewards decides.
            best, worst = max(own, key=verdict.totals.__getitem__), min(own, key=verdict.totals.__getitem__)
            group = phase.groups[number]
            margins.append(verdict.totals[best] - verdict.totals[worst])
            found[number] = Pair(
                key=group.id,
                prompt=group.task.prompt,
                winner=phase.pictures[best].latents,
                loser=phase.pictures[worst].latents,
                references=group.task.references,
            )
        self._margin = sum(margins) / len(margins) if margins else 0.0
        return found

    def batch(self, items: tuple[Pair, ...], fresh: bool) -> Pairs:
        return Pairs(items=items)

    def keep(self, items: Mapping[int, Pair]) -> tuple[dict[str, Any], dict[str, Tensor]]:
        return keeping.keep_pairs(items)

    def take(self, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[int, Pair]:
        return keeping.take_pairs(state, tensors)

    def _told(self, items: Any) -> dict[str, float]:
        return {"margin": self._margin}

    def _sizes(self) -> str:
        return f"a pair for each of groups = {self.settings.groups}"


def _prompts(settings: Drawing, place: Place, seed: int, multiple: int) -> Prompts:
    if settings.prompts is not None:
        return FromSource(settings.prompts.build(place, multiple))
    assert settings.file is not None
    lines: Sequence[Any] = Reader(settings.file.expanduser(), (settings.height, settings.width), multiple).read()
    return FromFile(lines, seed, multiple, f"file = '{settings.file}'", settings.changed)


def _number(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=7).digest(), "little")
