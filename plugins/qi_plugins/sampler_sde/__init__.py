"""Samplers that add noise on the way: stochastic equations with the marginals of dx = v dt."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qi_core import hookimpl

if TYPE_CHECKING:
    from qi_core import Sampler


@hookimpl
def qi_samplers() -> dict[str, type[Sampler]]:
    from qi_plugins.sampler_sde.samplers import Cps, DanceSde, ExactSde, FlowSde

    return {"exact-sde": ExactSde, "flow-sde": FlowSde, "dance-sde": DanceSde, "cps": Cps}
