"""Evaluation ``reward``: held-out prompts, painted and judged, and how often better than at the start."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qi_core.hooks import hookimpl

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qi_core import EvaluationComponent


@hookimpl
def qi_evaluations() -> Mapping[str, type[EvaluationComponent]]:
    from qi_plugins.eval_reward.component import RewardEvaluation

    return {"reward": RewardEvaluation}
