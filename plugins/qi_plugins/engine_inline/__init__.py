"""The engine "inline": the trainer makes its own samples."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qi_core import hookimpl

if TYPE_CHECKING:
    from qi_core import EngineComponent


@hookimpl
def qi_engines() -> dict[str, type[EngineComponent]]:
    from qi_plugins.engine_inline.component import InlineEngine

    return {"inline": InlineEngine}
