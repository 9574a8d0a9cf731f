"""Pictures in pairs of a preferred one and another: people's or a model's judgement, from a JSONL."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from qi_core.hooks import hookimpl

if TYPE_CHECKING:
    from qi_core.source import SourceComponent


@hookimpl
def qi_sources() -> Mapping[str, type[SourceComponent[Any]]]:
    from qi_plugins.source_pairs.component import PreferencePairs

    return {"pairs": PreferencePairs}
