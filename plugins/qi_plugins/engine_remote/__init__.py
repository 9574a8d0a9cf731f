"""The engine "remote": samples are made by producers that somebody has started elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qi_core import hookimpl

if TYPE_CHECKING:
    from qi_core import EngineComponent


@hookimpl
def qi_engines() -> dict[str, type[EngineComponent]]:
    from qi_plugins.engine_remote.component import RemoteEngine

    return {"remote": RemoteEngine}
