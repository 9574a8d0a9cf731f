"""Deterministic samplers: solvers of the ordinary differential equation dx = v dt."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qi_core import hookimpl

if TYPE_CHECKING:
    from qi_core import Sampler


@hookimpl
def qi_samplers() -> dict[str, type[Sampler]]:
    from qi_plugins.sampler_flow.multistep import AdamsBashforth
    from qi_plugins.sampler_flow.samplers import Euler, Heun

    return {"euler": Euler, "heun": Heun, "adams-bashforth": AdamsBashforth}
