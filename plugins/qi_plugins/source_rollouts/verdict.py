"""What the rewards said of a rollout, and what follows from it."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import frozen

from qi_plugins.source_rollouts import advantages
from qi_plugins.source_rollouts.component import Advantage, Drawing
from qi_plugins.source_rollouts.phase import Phase


@frozen(kw_only=True)
class Verdict:
    """Pictures are named by their number in the rollout. One that a reward with a weight could not judge is left out
    of everything: a 0 in its place would be a verdict."""

    settings: Drawing
    scores: Mapping[str, tuple[float | None, ...]]
    """By reward, one a picture."""
    members: tuple[int, ...]
    """The group of each picture."""
    totals: Mapping[int, float]
    """The weighted sum of those that could be judged."""

    @staticmethod
    def of(settings: Drawing, phase: Phase) -> Verdict:
        counting = {weighted.name: weighted.weight for weighted in settings.rewards if weighted.weight}
        totals: dict[int, float] = {}
        for number in range(len(phase.pictures)):
            found = [phase.scores[name][number] for name in counting]
            values = [value for value in found if value is not None]
            if len(values) == len(found):
                (totals[number],) = advantages.totals([[value] for value in values], list(counting.values()))
        return Verdict(
            settings=settings,
            scores=phase.scores,
            members=tuple(picture.group for picture in phase.pictures),
            totals=totals,
        )

    def groups(self) -> dict[int, list[int]]:
        """Group -> its pictures that could be judged; groups without any are left out."""
        numbers = list(self.totals)
        places = advantages.members([self.members[number] for number in numbers])
        return {group: [numbers[place] for place in own] for group, own in places.items()}

    def advantages(self, kind: Advantage, eps: float) -> dict[int, float]:
        """Of the pictures that could be judged."""
        rewards, weights, groups = self._columns()
        return dict(zip(self.totals, advantages.advantages(kind, rewards, weights, groups, eps), strict=True))

    def ties(self, apart: bool) -> set[int]:
        """Groups that nothing can be learned from; ``apart``: see ``advantages.ties``."""
        rewards, weights, groups = self._columns()
        return advantages.ties(rewards, weights, groups, apart) if groups else set()

    def rewards(self, number: int) -> dict[str, float]:
        """What could be told of a picture."""
        found = {name: values[number] for name, values in self.scores.items()}
        return {name: value for name, value in found.items() if value is not None}

    def figures(self, apart: bool) -> dict[str, float]:
        """Of the whole rollout, for logs. ``within``: the mean of the groups' own deviations; ``apart``: as above."""
        found: dict[str, float] = {"masked": 1 - len(self.totals) / len(self.members)}
        groups = self.groups()
        found["ties"] = len(self.ties(apart)) / self.settings.groups
        if self.totals:
            values = list(self.totals.values())
            inside = [advantages.deviation([self.totals[i] for i in own]) for own in groups.values()]
            found |= {
                "reward": advantages.mean(values),
                "reward/std": advantages.deviation(values),
                "reward/within": advantages.mean(inside),
            }
        for weighted in self.settings.rewards:
            told = [value for value in self.scores[weighted.name] if value is not None]
            kind = "reward" if weighted.weight else "watched"
            if told:
                found[f"{kind}/{weighted.name}"] = advantages.mean(told)
                found[f"{kind}/{weighted.name}/std"] = advantages.deviation(told)
        return found

    def _columns(self) -> tuple[list[list[float]], list[float], list[int]]:
        """(for each reward that counts, one value a picture; their weights; the pictures' groups)."""
        counting = [weighted for weighted in self.settings.rewards if weighted.weight]
        rewards = [
            [value for number in self.totals if (value := self.scores[weighted.name][number]) is not None]
            for weighted in counting
        ]
        return rewards, [weighted.weight for weighted in counting], [self.members[number] for number in self.totals]
