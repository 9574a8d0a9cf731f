"""Rewards by models with a tower for pictures and one for prompts: ``pickscore``, ``hps``, ``clip-similarity``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qi_core.hooks import hookimpl

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qi_core import RewardComponent


@hookimpl
def qi_rewards() -> Mapping[str, type[RewardComponent]]:
    from qi_plugins.reward_clip.component import ClipSimilarity, Hps, PickScore

    return {"pickscore": PickScore, "hps": Hps, "clip-similarity": ClipSimilarity}
