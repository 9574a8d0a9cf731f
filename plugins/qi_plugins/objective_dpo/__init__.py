"""Direct preference optimization, and errors of its reference that are measured beforehand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from qi_core import hookimpl

if TYPE_CHECKING:
    from qi_core import EvaluationComponent, Objective


@hookimpl
def qi_objectives() -> dict[str, type[Objective[Any]]]:
    from qi_plugins.objective_dpo.dpo import Dpo

    return {"dpo": Dpo}


@hookimpl
def qi_evaluations() -> Mapping[str, type[EvaluationComponent]]:
    from qi_plugins.objective_dpo.measuring import ReferenceErrors

    return {"reference-errors": ReferenceErrors}
