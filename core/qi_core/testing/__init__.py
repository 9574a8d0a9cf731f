"""The contracts that components keep, one check a kind: run them in your own plugin's tests.

    from qi_core.testing import check_sampler

    def test_the_contract() -> None:
        check_sampler(Midpoint(steps=20))

A check returns None, or raises AssertionError with one sentence: what was seen, and the docstring that says otherwise.
Every check is quick (tiny data, CPU, float32) and needs no test framework.
"""

from __future__ import annotations

from qi_core.testing.adapters import check_adapter as check_adapter
from qi_core.testing.component import check_component as check_component
from qi_core.testing.curricula import check_curriculum as check_curriculum
from qi_core.testing.encoders import check_autoencoder as check_autoencoder
from qi_core.testing.encoders import check_conditioner as check_conditioner
from qi_core.testing.engine import check_engine as check_engine
from qi_core.testing.filter import check_filter as check_filter
from qi_core.testing.listeners import check_evaluation as check_evaluation
from qi_core.testing.listeners import check_tracker as check_tracker
from qi_core.testing.models import check_denoiser as check_denoiser
from qi_core.testing.rewards import check_reward as check_reward
from qi_core.testing.samplers import check_sampler as check_sampler
from qi_core.testing.source import check_source as check_source
from qi_core.testing.store import check_store as check_store
from qi_core.testing.training import check_objective as check_objective
from qi_core.testing.training import check_optimizer as check_optimizer
from qi_core.testing.training import check_parallel as check_parallel

__all__ = [
    "check_adapter",
    "check_autoencoder",
    "check_component",
    "check_conditioner",
    "check_curriculum",
    "check_denoiser",
    "check_engine",
    "check_evaluation",
    "check_filter",
    "check_objective",
    "check_optimizer",
    "check_parallel",
    "check_reward",
    "check_sampler",
    "check_source",
    "check_store",
    "check_tracker",
]
