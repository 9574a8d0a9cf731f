"""Reward ``vlm-judge``: a vision-language model says how good a picture is, as a number."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qi_core.hooks import hookimpl

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qi_core import RewardComponent


@hookimpl
def qi_rewards() -> Mapping[str, type[RewardComponent]]:
    from qi_plugins.reward_vlm.component import VlmJudge

    return {"vlm-judge": VlmJudge}
