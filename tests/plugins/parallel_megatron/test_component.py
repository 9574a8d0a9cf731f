"""The settings, and what can be told without other ranks."""

from __future__ import annotations

import pytest

from qi_core import QiError
from qi_core.testing import check_component
from qi_plugins.parallel_megatron.component import Megatron


def test_it_is_a_component() -> None:
    check_component(Megatron)


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"precision": "fp16"}, "'precision' 'fp16' is refused"),
        ({"tensor": 0}, "'tensor' must be > 0"),
        ({"sequence": True}, "'tensor' is 1; set tensor = 2"),
        ({"fp8": True, "engine": "torch"}, 'set engine = "te"'),
        ({"fp8": True, "precision": "fp32"}, 'set precision = "bf16"'),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, object], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        Megatron(**settings)  # type: ignore[arg-type]


def test_the_cpu_is_refused_in_one_line() -> None:
    with pytest.raises(QiError, match="megatron trains on GPUs, but its device is 'cpu'; use --set parallel=fsdp"):
        Megatron(device="cpu").build()


def test_a_layout_tells_who_holds_what() -> None:
    layout = Megatron(tensor=4).layout(64)
    assert (layout.replicas, layout.tensor, layout.ranks) == (16, 4, 64)
    assert (layout.weight_bytes, layout.gradient_bytes, layout.master_bytes) == (2, 4, 4)
    assert (layout.weights_over, layout.gradients_over, layout.optimizer_over) == (1, 1, 16)
    assert [(each.kind, each.itemsize, each.stride) for each in layout.transfers] == [
        ("reduce-scatter", 4, 4),
        ("all-gather", 2, 4),
    ]
    assert Megatron(tensor=2, precision="fp32").layout(2).transfers == ()
    with pytest.raises(QiError, match=r"parallel\.tensor: 3 does not divide 64 ranks"):
        Megatron(tensor=3).layout(64)
