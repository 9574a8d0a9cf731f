"""Evaluation ``held-out``: the run's own objective on data that is not trained on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from qi_core.hooks import hookimpl

if TYPE_CHECKING:
    from qi_core import EvaluationComponent


@hookimpl
def qi_evaluations() -> Mapping[str, type[EvaluationComponent]]:
    from qi_plugins.eval_held_out.component import HeldOut

    return {"held-out": HeldOut}
