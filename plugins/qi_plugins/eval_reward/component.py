"""The settings of the evaluation ``reward``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from attrs import Attribute, field, frozen, validators

from qi_core.data import Samples
from qi_core.reward import Weighted, some_count
from qi_core.source import SourceComponent

if TYPE_CHECKING:
    from qi_core import Place
    from qi_plugins.eval_reward.judging import JudgingEvaluation


def _samples(_: object, __: Attribute[Any], value: SourceComponent[Any]) -> None:
    if value.gives is not Samples:
        raise ValueError(f"'prompts' gives {value.gives.__name__}; wanted a source of Samples, such as rendered-text")


def _each_alone(_: object, __: Attribute[Any], value: tuple[Weighted, ...]) -> None:
    for weighted in value:
        if weighted.reward.groupwise:
            raise ValueError(
                f"reward {weighted.name!r} compares the pictures of a group, and one picture a prompt is painted here; "
                "give one that judges each picture by itself"
            )


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
    rewards: tuple[Weighted, ...] = field(validator=[some_count, _each_alone])
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
