"""The engine "local": samples are made by processes of this machine, which the run starts and ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qi_core import hookimpl

if TYPE_CHECKING:
    from qi_core import EngineComponent


@hookimpl
def qi_engines() -> dict[str, type[EngineComponent]]:
    from qi_plugins.engine_local.component import LocalEngine

    return {"local": LocalEngine}
