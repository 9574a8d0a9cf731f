"""Reward ``http``: pictures are judged by another process, here or far away (``qi reward serve`` makes one)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qi_core.hooks import hookimpl

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qi_core import RewardComponent


@hookimpl
def qi_rewards() -> Mapping[str, type[RewardComponent]]:
    from qi_plugins.reward_http.component import Http

    return {"http": Http}
