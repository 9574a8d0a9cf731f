"""The settings of the evaluation ``reward``."""

from __future__ import annotations

from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from attrs import Attribute, field, frozen, validators

from qi_core.data import Samples
from qi_core.reward import RewardComponent
from qi_core.source import SourceComponent

if TYPE_CHECKING:
    from qi_core import Place
    from qi_plugins.eval_reward.judging import JudgingEvaluation


def _finite(_: object, attribute: Attribute[float], value: float) -> None:
    if not isfinite(value):
        raise ValueError(f"'{attribute.name}' must be a finite number, not {value}")


def _samples(_: object, __: Attribute[Any], value: SourceComponent[Any]) -> None:
    if value.gives is not Samples:
        raise ValueError(f"'prompts' gives {value.gives.__name__}; wanted a source of Samples, such as rendered-text")


def _rewards(_: object, __: Attribute[Any], value: tuple[Judge, ...]) -> None:
    names = [judge.name for judge in value]
    if twins := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"two rewards are called {min(twins)!r}; give each a name of its own")
    if not any(judge.weight for judge in value):
        raise ValueError("'rewards' has none with a weight; give one")
    for judge in value:
        if judge.reward.groupwise:
            raise ValueError(
                f"reward {judge.name!r} compares the pictures of a group, and one picture a prompt is painted here; "
                "give one that judges each picture by itself"
            )


@frozen(kw_only=True)
class Judge:
    """A reward and how much it counts."""

    name: str = field(validator=validators.min_len(1))
    """Under which name its figures are told."""
    weight: float = field(default=1.0, validator=_finite)
    """Rewards are added up with their weights; 0: only told, as ``watched``."""
    reward: RewardComponent
    """A reward: its name, or a table with its name and its keys."""


@frozen(kw_only=True)
class RewardEvaluation:
    """Paints prompts, the same ones with the same noise every time, and has the pictures judged.

    Figures: ``reward``, the mean of the weighted sum over the pictures that could be judged; ``masked``, the part that
    could not; with several rewards the mean of each; and ``wins``, the part of prompts whose picture is worth more
    than that of the first evaluation (a tie is half a win). For what a run starts from to be the first, set
    train.evaluate_first.
    """

    BASELINES: ClassVar[str] = "first-scores"
    """Folder, in that of the run, where the first scores are kept."""

    prompts: SourceComponent[Any] = field(validator=_samples)
    """Where prompts come from: prompt, text, references and size of its samples are used, the picture is not. Give it
    split = "held-out" where it has one, and they were never trained on."""
    rewards: tuple[Judge, ...] = field(validator=_rewards)
    """Who judges. One that the policy is not trained by tells whether it learns or cheats."""
    every: int = field(default=0, validator=validators.ge(0))
    """Steps between two; 0: only at the end."""
    count: int = field(default=64, validator=validators.gt(0))
    """Prompts, one picture each."""
    shown: int = field(default=16, validator=validators.ge(0))
    """Of these, so many are shown in the picture grid, with their scores."""
    title: str = field(default="reward", validator=validators.matches_re(r"[\w .-]+"))
    """Under which name figures and pictures are kept; tells several evaluations of a run apart."""
    against: Path | None = None
    """Another run with an evaluation of this title, for ``wins`` against its first scores and not this run's."""

    def build(self, place: Place) -> JudgingEvaluation:
        from qi_plugins.eval_reward.judging import JudgingEvaluation, first_scores

        tasks = tuple(self.prompts.build(place, place.multiple).draw(self.count))
        rewards = {judge.name: judge.reward.build(place) for judge in self.rewards}
        return JudgingEvaluation(self, tasks, rewards, first_scores(self, place, tasks))
