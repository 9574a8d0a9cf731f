"""The four are components and samplers."""

from __future__ import annotations

import pytest

from qi_core import Sampler, StochasticSampler
from qi_core.testing import check_component, check_sampler
from qi_plugins.sampler_sde.samplers import Cps, DanceSde, ExactSde, FlowSde


@pytest.mark.parametrize("kind", [ExactSde, FlowSde, DanceSde, Cps])
def test_it_is_a_component_and_a_sampler_that_a_policy_gradient_can_train(kind: type[Sampler]) -> None:
    check_component(kind)
    check_sampler(kind(steps=60, shift="none"))  # type: ignore[call-arg]
    assert isinstance(kind(), StochasticSampler)
