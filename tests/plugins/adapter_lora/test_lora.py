"""Only A and B are trained, all of them learn, and nothing else changes by a bit."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from attrs import evolve
from torch import nn

from qi_core import DenoiserModule, Place, QiError
from qi_core.tensorfiles import forms
from qi_core.testing import check_adapter, check_component
from qi_core.weights import load_weights
from qi_plugins.adapter_lora.component import LoRA
from qi_plugins.adapter_lora.layers import LoraLinear
from qi_plugins.optimizer_adamw.component import AdamW

from .conftest import EVERYTHING, Adapted, velocity, worst

Adapt = Callable[..., Adapted]


@pytest.mark.parametrize("settings", [{}, {"alpha": 3.0, "rslora": True, "init": "gaussian"}])
def test_the_contract(settings: dict[str, Any]) -> None:
    check_component(LoRA)
    check_adapter(LoRA(rank=4, targets=("blocks.*", "text"), **settings))


def test_by_default_the_projections_of_attention_are_adapted_in_both_streams(adapt: Adapt) -> None:
    adapted = adapt()
    image, text = ("to_q", "to_k", "to_v", "to_out.0"), ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
    every = {f"transformer_blocks.{block}.attn.{name}" for block in (0, 1) for name in (*image, *text)}
    # nobody looks at what the text stream of the last block gives
    unused = {"transformer_blocks.1.attn.add_q_proj", "transformer_blocks.1.attn.to_add_out"}
    assert adapted.adapter.layers.keys() == every - unused
    trained = {name for name, parameter in adapted.model.named_parameters() if parameter.requires_grad}
    assert trained == {f"{name}.{part}" for name in every - unused for part in ("lora_A", "lora_B")}


def test_what_is_left_out_is_told(adapt: Adapt) -> None:
    notes = adapt().adapter.notes()
    assert notes[0] == "lora: 14 linear layers of 34 are adapted, 3,584 values are trained"
    assert notes[1].startswith("lora: named by targets, but left out, for nothing uses their output: 2 layers (")
    assert "transformer_blocks.1.attn.to_add_out" in notes[1]


@pytest.mark.parametrize("checkpointing", ["none", "selective", "all"])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("targets", [("*.attn.*",), EVERYTHING])
def test_every_b_has_left_zero_after_two_steps(
    adapt: Adapt, checkpointing: str, precision: torch.dtype, targets: tuple[str, ...]
) -> None:
    """With recomputed activations it stayed there in another trainer (ai-toolkit, issue 1054): what goes into the first
    block needs no gradient unless the layers before the blocks are adapted too."""
    adapted = adapt({"checkpointing": checkpointing}, targets=targets)
    before = {name: tensor.clone() for name, tensor in adapted.tensors().items() if "lora" not in name}
    optimizer = AdamW(lr=1e-2).build(adapted.model, 2)
    reached: set[str] = set()
    for step in range(2):
        with torch.autocast("cpu", dtype=precision, enabled=precision != torch.float32):
            loss = (velocity(adapted.model) - 1).square().mean()
        loss.backward()
        reached |= {n for n, p in adapted.model.named_parameters() if p.grad is not None and p.grad.any()}
        optimizer.step(step)
    for name, layer in adapted.adapter.layers.items():
        assert layer.lora_B.any(), name
    assert reached == {name for name, parameter in adapted.model.named_parameters() if parameter.requires_grad}
    after = adapted.tensors()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_checkpointing_changes_no_gradient(adapt: Adapt) -> None:
    grads = []
    for checkpointing in ("none", "selective", "all"):
        adapted = adapt({"checkpointing": checkpointing}).shake()
        velocity(adapted.model).square().mean().backward()
        grads.append([p.grad for p in adapted.model.parameters() if p.requires_grad])
    assert all(torch.equal(one, other) for same in zip(*grads, strict=True) for one, other in pairwise(same))


def test_the_scale_is_alpha_over_rank_or_over_its_root() -> None:
    assert LoRA(rank=16).scale == 1.0
    assert LoRA(rank=16, alpha=8).scale == 0.5
    assert LoRA(rank=16, alpha=8, rslora=True).scale == 2.0


def test_a_layer_computes_what_the_paper_says(adapt: Adapt) -> None:
    layer = next(iter(adapt(alpha=2.0).shake().adapter.layers.values()))
    x = torch.randn(5, layer.in_features, generator=torch.Generator().manual_seed(0))
    wanted = x @ layer.weight.T + layer.bias + 2.0 / 4 * x @ layer.lora_A.T @ layer.lora_B.T
    assert worst(layer(x), wanted) < 1e-5


def test_off_is_the_model_to_the_last_bit_and_merged_is_the_adapted_one(
    adapt: Adapt, plain: Callable[..., DenoiserModule]
) -> None:
    base, adapted = plain(), adapt(targets=EVERYTHING, alpha=6.0)
    before = velocity(base)
    assert torch.equal(velocity(adapted.model), before)
    with_lora = velocity(adapted.shake().model)
    assert worst(with_lora, before) > 0.05
    with adapted.adapter.off():
        assert torch.equal(velocity(adapted.model), before)
    load_weights(base, adapted.settings.merged(adapted.tensors()), "merged", "")
    assert worst(velocity(base), with_lora) < 1e-5


def test_a_base_in_bfloat16_is_merged_in_float32(adapt: Adapt, place: Place) -> None:
    """A change of a thousandth of each weight would be rounded away in bfloat16."""
    adapted = adapt()
    name, layer = next(iter(adapted.adapter.layers.items()))
    tensors = adapted.tensors()
    tensors[f"{name}.weight"] = torch.ones_like(layer.weight, dtype=torch.bfloat16)
    tensors[f"{name}.lora_A"] = torch.full_like(layer.lora_A, 0.5)
    tensors[f"{name}.lora_B"] = torch.full_like(layer.lora_B, 0.0005)
    merged = adapted.settings.merged(tensors)
    assert torch.allclose(merged[f"{name}.weight"], torch.tensor(1.001))
    assert forms(merged)[f"{name}.weight"].dtype == torch.float32


def test_a_base_in_bfloat16_computes_with_autocast_and_without(
    plain: Callable[..., DenoiserModule], place: Place
) -> None:
    model = plain()
    adapter = LoRA(rank=4, targets=EVERYTHING).apply(model, evolve(place, dtype=torch.bfloat16))
    adapted = Adapted(settings=LoRA(rank=4), model=model, adapter=adapter).shake()  # type: ignore[arg-type]
    dtypes = {(p.dtype, p.requires_grad) for p in model.parameters()}
    assert dtypes == {(torch.bfloat16, False), (torch.float32, True)}
    without = velocity(adapted.model, torch.bfloat16)
    without.float().square().mean().backward()
    assert all(layer.lora_A.grad is not None for layer in adapted.adapter.layers.values())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert worst(velocity(adapted.model), without.float()) < 0.2


def test_compiled_blocks_follow_the_switch(adapt: Adapt) -> None:
    adapted = adapt(targets=EVERYTHING).shake()
    on = velocity(adapted.model)
    with adapted.adapter.off():
        off = velocity(adapted.model)
    for block in adapted.model.get_submodule("transformer_blocks").children():
        block.compile(backend="eager")
    with torch.no_grad():
        assert torch.allclose(velocity(adapted.model), on, atol=1e-5)
        with adapted.adapter.off():
            assert torch.allclose(velocity(adapted.model), off, atol=1e-5)
        assert torch.allclose(velocity(adapted.model), on, atol=1e-5)


def test_a_start_depends_on_seed_and_name_alone(adapt: Adapt) -> None:
    few, many = adapt(targets=("*.attn.to_q",)), adapt(targets=EVERYTHING)
    for name, layer in few.adapter.layers.items():
        assert torch.equal(layer.lora_A, many.adapter.layers[name].lora_A)
    one, other = (few.adapter.layers[f"transformer_blocks.{block}.attn.to_q"].lora_A for block in (0, 1))
    assert not torch.equal(one, other)


@pytest.mark.parametrize(("init", "deviation"), [("kaiming", (1 / 3) ** 0.5 / 256**0.5), ("gaussian", 1 / 64)])
def test_a_starts_as_pefts_does(place: Place, init: Any, deviation: float) -> None:
    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(256, 8)

    model: Any = Wide()
    LoRA(rank=64, init=init, targets=("*",)).apply(model, place)
    assert float(model.layer.lora_A.detach().std()) == pytest.approx(deviation, rel=0.05)
    assert not model.layer.lora_B.any()


def test_a_pattern_that_matches_nothing_is_told_with_what_there_is(adapt: Adapt) -> None:
    with pytest.raises(
        QiError, match=r"'\*\.attention\.\*' matches no linear layer; there are .*_blocks\.\*\.attn\.to_q"
    ):
        adapt(targets=("*.attn.*", "*.attention.*"))


def test_layers_that_nothing_uses_cannot_be_all(adapt: Adapt) -> None:
    with pytest.raises(QiError, match="frozen in the denoiser"):
        adapt(targets=("transformer_blocks.1.attn.to_add_out",))


def test_patterns_and_ranks_are_checked_when_the_recipe_is_read() -> None:
    for settings in ({"rank": 0}, {"alpha": 0.0}, {"targets": ()}, {"targets": ("",)}):
        with pytest.raises(ValueError, match=r"'?(rank|alpha|targets)"):
            LoRA(**settings)  # type: ignore[arg-type]


def test_the_model_can_be_adapted_once(adapt: Adapt, place: Place) -> None:
    adapted = adapt()
    with pytest.raises(QiError, match="a LoRA in this denoiser already"):
        LoRA().apply(adapted.model, place)


def test_the_layers_own_weights_are_the_very_same(
    plain: Callable[..., DenoiserModule], place: Place, tmp_path: Path
) -> None:
    model = plain()
    before = dict(model.named_parameters())
    LoRA().apply(model, place)
    after = dict(model.named_parameters())
    assert all(after[name] is parameter for name, parameter in before.items())
    assert isinstance(model.get_submodule("transformer_blocks.0.attn.to_q"), LoraLinear)


def test_the_recipe_in_the_docs_is_one() -> None:
    text = (Path(__file__).parents[3] / "docs/lora.md").read_text(encoding="utf-8")
    told = tomllib.loads(text.partition("```toml\n")[2].partition("```")[0])["adapter"]
    assert told.pop("name") == "lora"
    assert LoRA(**(told | {"targets": tuple(told["targets"])})) == evolve(LoRA(), alpha=16.0)
