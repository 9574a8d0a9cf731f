"""Flow matching."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qi_core import hookimpl

if TYPE_CHECKING:
    from qi_core import Objective


@hookimpl
def qi_objectives() -> dict[str, type[Objective[Any]]]:
    from qi_plugins.objective_flow.flow_matching import FlowMatching

    return {"flow-matching": FlowMatching}
