"""Rewards of the picture alone: ``compressibility``, ``incompressibility``, ``brisque``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qi_core.hooks import hookimpl

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qi_core import RewardComponent


@hookimpl
def qi_rewards() -> Mapping[str, type[RewardComponent]]:
    from qi_plugins.reward_quality.component import Brisque, Compressibility, Incompressibility

    return {"compressibility": Compressibility, "incompressibility": Incompressibility, "brisque": Brisque}
