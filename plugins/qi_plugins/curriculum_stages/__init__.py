"""A curriculum of stages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from qi_core.hooks import hookimpl

if TYPE_CHECKING:
    from qi_core.curriculum import CurriculumComponent


@hookimpl
def qi_curriculums() -> Mapping[str, type[CurriculumComponent]]:
    from qi_plugins.curriculum_stages.component import Stages

    return {"stages": Stages}
