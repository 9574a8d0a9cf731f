"""The settings of ``rollouts`` and ``ranked-rollouts``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

from attrs import Attribute, field, frozen, validators

from qi_core.data import Pairs, Samples
from qi_core.reward import Weighted, some_count
from qi_core.rollouts import Rollouts
from qi_core.sampler import Sampler
from qi_core.settings import Guidance
from qi_core.source import SourceComponent

if TYPE_CHECKING:
    from qi_core import Place
    from qi_plugins.source_rollouts.live import RankedSource, RolloutSource

Advantage: TypeAlias = Literal["group", "global", "mean", "per-reward"]


def _prompts(instance: Drawing, _: Attribute[Any], value: SourceComponent[Any] | None) -> None:
    if (value is None) == (instance.file is None):
        found = "neither 'prompts' nor 'file' is given" if value is None else "both 'prompts' and 'file' are given"
        raise ValueError(f"{found}; wanted one of them, to say what is drawn")
    if value is not None and value.gives is not Samples:
        raise ValueError(f"'prompts' gives {value.gives.__name__}; wanted a source of Samples, such as rendered-text")


@frozen(kw_only=True)
class Drawing:
    """What is drawn, how, and who judges it."""

    file: Path | None = None
    """Prompts, if they come from a file: UTF-8 text with one a line, or a .jsonl of {"prompt": ...} with, if wanted,
    "id", "text" (the string that should stand in the picture), "references" (paths of pictures to edit), "height" and
    "width". Shuffled anew each time round."""
    prompts: SourceComponent[Any] | None = field(default=None, validator=_prompts)
    """Prompts, if they come from a source: of its samples the prompt, the text, the references and the size are used;
    the picture is not."""
    height: int = field(default=1024, validator=validators.gt(0))
    """Pixels, for prompts of a file that don't say."""
    width: int = field(default=1024, validator=validators.gt(0))
    """Pixels, for prompts of a file that don't say."""
    groups: int = field(default=8, validator=validators.gt(0))
    """Prompts in a rollout."""
    group: int = field(default=8, validator=validators.gt(1))
    """Pictures a prompt; they are compared with each other."""
    passes: int = field(default=1, validator=validators.gt(0))
    """Times each picture is learned from before new ones are drawn."""
    sampler: Sampler
    """Draws them: exact-sde or another that adds noise where the objective wants probabilities of steps (grpo)."""
    guidance: Guidance = field(default=Guidance(scale=1.0))
    """While they are drawn. Whether the objective guides too is its own affair."""
    rewards: tuple[Weighted, ...] = field(validator=some_count)
    """Who judges the pictures."""
    shared_noise: bool = False
    """Pictures of a group start from the same noise, and differ by what the sampler adds alone."""
    chunk: int = field(default=64, validator=validators.gt(0))
    """Pictures drawn at once. While the next ones are drawn, rewards judge these."""
    seed: int = field(default=0, validator=validators.ge(0))
    """Another number draws other noise from the same seed of the run."""
    changed: Literal["refuse", "next-epoch"] = "refuse"
    """What a resume does when ``file`` is not what it was: refuse, or go on with what is there from the next time round
    on."""

    def sides(self) -> tuple[int, ...]:
        """See ``qi_core.planning.Shown``."""
        return (round(math.sqrt(self.height * self.width)),) if self.prompts is None else ()


@frozen(kw_only=True)
class DrawnRollouts(Drawing):
    """Pictures that the policy draws as it is now, with their trajectories and advantages, for grpo, nft and awm.

    A rollout is groups * group pictures, and train.batch must divide their number: it is cut into so many updates,
    ``passes`` times over. Pictures that cannot be judged, and groups whose rewards are all equal, are left out and
    counted; their rollout's updates are as many and smaller.
    """

    gives: ClassVar[type] = Rollouts

    advantage: Advantage = "group"
    """What a reward is compared with. "group": less the group's mean, over the group's deviation (Qwen-Image report,
    eq. 4). "global": over the deviation of the whole rollout (Flow-GRPO). "mean": over nothing (Dr. GRPO, arXiv
    2503.20783). "per-reward": "group" for each reward by itself, then the weighted sum, then over the deviation of the
    whole rollout (GDPO, arXiv 2601.05242): no reward drowns another by its scale."""
    advantage_clip: float = field(default=5.0, validator=validators.gt(0))
    """Advantages beyond it, to either side, are cut to it."""
    eps: float = field(default=1e-4, validator=validators.ge(0))
    """Added to deviations that are divided by."""
    drop_ties: bool = True
    """Leave out groups whose rewards are all equal. Otherwise they are kept with advantages of 0, so that what an
    objective adds to its loss (a KL) sees them too."""

    def build(self, place: Place, multiple: int) -> RolloutSource:
        from qi_plugins.source_rollouts.live import RolloutSource

        return RolloutSource(self, place, multiple)


@frozen(kw_only=True)
class RankedRollouts(Drawing):
    """The best and the worst picture of each group that the policy draws as it is now: pairs for online dpo.

    A rollout gives a pair a group, and train.batch must divide ``groups``. Pictures that cannot be judged, and groups
    whose rewards are all equal, are left out and counted.
    """

    gives: ClassVar[type] = Pairs

    def build(self, place: Place, multiple: int) -> RankedSource:
        from qi_plugins.source_rollouts.live import RankedSource

        return RankedSource(self, place, multiple)
