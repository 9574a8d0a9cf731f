"""Reward ``ocr``: is what should be written in the picture what a reader finds there?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qi_core.hooks import hookimpl

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qi_core import RewardComponent


@hookimpl
def qi_rewards() -> Mapping[str, type[RewardComponent]]:
    from qi_plugins.reward_ocr.component import Ocr

    return {"ocr": Ocr}
