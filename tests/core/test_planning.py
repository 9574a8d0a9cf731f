"""How strategies say that they lay a model out."""

from __future__ import annotations

import pytest

from qi_core.errors import QiError
from qi_core.planning import Laid, Layout, replicas_of
from qi_plugins.parallel_single.component import Single


def test_ranks_are_replicas_times_the_tensor_parallel_degree() -> None:
    assert replicas_of(8, 2) == 4
    assert Layout(replicas=4, tensor=2).ranks == 8
    with pytest.raises(QiError, match="3 does not divide 8 ranks; set it to one of 1, 2, 4, 8"):
        replicas_of(8, 3)
    with pytest.raises(ValueError, match="replicas"):
        Layout(replicas=0)


def test_single_is_one_rank_whose_weights_autocast_copies() -> None:
    assert isinstance(Single(), Laid)
    assert Single().layout(1) == Layout(replicas=1, copied=True)
    whole = Single(precision="fp32").layout(1)
    assert (whole.product_bytes, whole.frozen_bytes, whole.copied) == (4, 4, False)
    with pytest.raises(QiError, match='"single" is one process, but 8 ranks'):
        Single().layout(8)
