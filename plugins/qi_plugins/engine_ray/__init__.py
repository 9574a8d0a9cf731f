"""The engine "ray": samples are made by actors that Ray places, on many machines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qi_core import hookimpl

if TYPE_CHECKING:
    from qi_core import EngineComponent


@hookimpl
def qi_engines() -> dict[str, type[EngineComponent]]:
    from qi_plugins.engine_ray.component import RayEngine

    return {"ray": RayEngine}
