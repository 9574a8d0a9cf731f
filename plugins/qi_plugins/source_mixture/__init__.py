"""Sources made of sources: a mixture by weight, and stages one after another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from qi_core.hooks import hookimpl

if TYPE_CHECKING:
    from qi_core.source import SourceComponent


@hookimpl
def qi_sources() -> Mapping[str, type[SourceComponent[Any]]]:
    from qi_plugins.source_mixture.mixture import Mixture
    from qi_plugins.source_mixture.stages import Stages

    return {"mixture": Mixture, "stages": Stages}
