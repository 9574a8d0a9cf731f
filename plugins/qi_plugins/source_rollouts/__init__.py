"""Sources that draw with the model that is being trained: ``rollouts`` and ``ranked-rollouts``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from qi_core.hooks import hookimpl

if TYPE_CHECKING:
    from qi_core.source import SourceComponent


@hookimpl
def qi_sources() -> Mapping[str, type[SourceComponent[Any]]]:
    from qi_plugins.source_rollouts.component import DrawnRollouts, RankedRollouts

    return {"rollouts": DrawnRollouts, "ranked-rollouts": RankedRollouts}
