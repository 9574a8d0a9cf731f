"""Selective checkpointing: the same numbers, about half of what is kept, and no product computed twice."""

from __future__ import annotations

import gc
import weakref
from collections import Counter
from typing import Any

import pytest
import torch
from attrs import evolve
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from qi_core import Place
from qi_plugins.mmdit.again import again, selective
from qi_plugins.mmdit.component import MMDiT
from qi_plugins.mmdit.network import MMDiTNetwork

from .conftest import TEXT, WIDTH, Case, Inputs

SETTINGS = MMDiT(layers=3, heads=4, head_dim=16, axes_dims_rope=(4, 6, 6))
EDITS = (Case(target=(1, 14, 12), text=5, references=((1, 3, 5),), sigma=0.25), Case(target=(1, 2, 3), text=8))
SIZES = (Case(target=(1, 16, 12), text=50), Case(target=(1, 3, 2), text=9), Case(target=(1, 12, 12), text=1))
EQUAL = (Case(target=(1, 12, 12), text=20), Case(target=(1, 12, 12), text=20, sigma=0.25))
SHORT = (Case(target=(1, 3, 2), text=9), Case(target=(1, 3, 2), text=4))
BATCHES = {"edits": EDITS, "sizes": SIZES, "equal": EQUAL, "a table of short ones": SHORT}


def network(place: Place, **settings: Any) -> MMDiTNetwork:
    """Away from the zeros of the start, which hide gradients."""
    made = evolve(SETTINGS, **settings).build(place, WIDTH, TEXT)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return made


def loss(model: MMDiTNetwork, inputs: Inputs, *, autocast: bool = False) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        return model.velocity(inputs.latents, inputs.t, inputs.condition).tokens.float().square().mean()


def gradients(model: MMDiTNetwork, inputs: Inputs, *, autocast: bool = False) -> dict[str, Tensor]:
    model.zero_grad()
    loss(model, inputs, autocast=autocast).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> bool:
    return found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("zero_cond_t", [False, True], ids=["", "clean references"])
@pytest.mark.parametrize("batch", BATCHES)
def test_gradients_are_the_same_bit_for_bit(place: Place, batch: str, zero_cond_t: bool) -> None:
    plain, kept = (network(place, checkpointing=how, zero_cond_t=zero_cond_t) for how in ("none", "selective"))
    inputs = Inputs.of(*BATCHES[batch])
    assert same(gradients(kept, inputs), gradients(plain, inputs))


def test_gradients_under_autocast_are_the_same(place: Place) -> None:
    """On the CPU; on a card, where norms give float32, products share one copy in bfloat16 and sums are its own."""
    plain, kept = (network(place, checkpointing=how) for how in ("none", "selective"))
    inputs = Inputs.of(*SIZES)
    assert same(gradients(kept, inputs, autocast=True), gradients(plain, inputs, autocast=True))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # the tracer's own
@pytest.mark.parametrize("autocast", [False, True], ids=["fp32", "bf16"])
def test_with_compiled_parts(place: Place, autocast: bool) -> None:
    torch.compiler.reset()
    model, inputs = network(place, checkpointing="selective"), Inputs.of(*SIZES)
    wanted = gradients(model, inputs, autocast=autocast)
    for block in model.transformer_blocks:
        block.compile(backend="aot_eager")
    limit = 2e-2 if autocast else 1e-4
    for name, found in gradients(model, inputs, autocast=autocast).items():
        assert (found - wanted[name]).norm() <= limit * wanted[name].norm(), name


def test_of_frozen_weights_the_input_still_gets_its_gradient(place: Place) -> None:
    found = []
    for how in ("none", "selective"):
        model, inputs = network(place, checkpointing=how).requires_grad_(False), Inputs.of(*SIZES)
        latents = inputs.latents.with_tokens(inputs.latents.tokens.clone().requires_grad_())
        out = model.velocity(latents, inputs.t, inputs.condition).tokens
        found.append(torch.autograd.grad(out.square().mean(), latents.tokens)[0])
    assert torch.equal(*found)


def test_a_graph_that_is_retained_can_be_used_again(place: Place) -> None:
    model, inputs = network(place, checkpointing="selective"), Inputs.of(*EDITS)
    value = loss(model, inputs)
    weights = [p for p in model.parameters() if p.requires_grad]
    first = torch.autograd.grad(value, weights, retain_graph=True)
    assert all(map(torch.equal, first, torch.autograd.grad(value, weights)))


class Counted(TorchDispatchMode):
    """How often each operation runs."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def test_products_and_attention_run_once_and_the_rest_again(place: Place) -> None:
    counts = []
    for how in ("none", "selective"):
        model, inputs = network(place, checkpointing=how), Inputs.of(*SIZES)
        with Counted() as counted:
            loss(model, inputs).backward()
        counts.append(counted.calls)
    plain, kept = counts
    heavy = [name for name in plain if "mm" in name or "attention" in name]
    assert {"addmm", "mm", "_scaled_dot_product_flash_attention_for_cpu"} <= set(heavy)
    assert all(kept[name] == plain[name] for name in heavy)
    # Of three blocks: two MLPs each, one in the last.
    assert (plain["gelu"], kept["gelu"]) == (5, 10)
    # All are computed twice but the last modulation, which is no block's: two norms a stream, one less in the last.
    assert kept["native_layer_norm"] - plain["native_layer_norm"] == plain["native_layer_norm"] - 1 == 3 * 4 - 1


def memory(model: MMDiTNetwork, inputs: Inputs, *, autocast: bool) -> tuple[int, int]:
    """Bytes kept by a forward pass, and the most held during forward and backward."""
    gradients(model, inputs, autocast=autocast)
    kept: list[int] = []
    for backward in (False, True):
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
            value = loss(model, inputs, autocast=autocast)
            if backward:
                grads = torch.autograd.grad(value, model.img_in.weight)
        del value
        changes = [e.nbytes() for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"]
        kept.append(max(sum(changes[: i + 1]) for i in range(len(changes))) if backward else sum(changes))
    assert grads
    return kept[0], kept[1]


def test_half_of_the_memory_is_kept(place: Place) -> None:
    """A block keeps 11 values of D a token, and 21 of none: its input, q, k and v, what attention gives and its
    projection (6), the hidden features and what the MLP gives (5); attention adds a number a head and token."""
    inputs = Inputs.of(Case(target=(1, 24, 24), text=50), Case(target=(1, 20, 20), text=70))
    tokens, width = 24 * 24 + 20 * 20 + 120, SETTINGS.heads * SETTINGS.head_dim  # type: ignore[operator]
    one = 4 * tokens * width
    found = {
        (how, layers): memory(network(place, checkpointing=how, layers=layers), inputs, autocast=False)
        for how in ("none", "selective")
        for layers in (3, 5)
    }
    blocks = {how: (found[how, 5][0] - found[how, 3][0]) / 2 / one for how in ("none", "selective")}
    assert blocks["selective"] == pytest.approx(11 + 1 / 16, abs=0.3)
    assert blocks["none"] > 1.8 * blocks["selective"]
    assert found["selective", 5][1] < 0.65 * found["none", 5][1], "what was used is let go during the backward pass"


def test_nothing_outlives_a_forward_pass_without_a_backward_pass(place: Place) -> None:
    model, inputs = network(place, checkpointing="selective"), Inputs.of(*EDITS)
    alive: list[weakref.ref[Any]] = []
    model.transformer_blocks[1].register_forward_hook(
        lambda _, __, out: alive.append(weakref.ref(out[0].untyped_storage()))
    )
    gc.collect()
    gc.disable()
    try:
        loss(model, inputs)
        assert alive
        assert alive[0]() is None
    finally:
        gc.enable()


def test_an_input_that_was_changed_in_place_is_told() -> None:
    x = torch.ones(3, requires_grad=True) * 2
    with selective():
        y = again(torch.exp, x)
    x.mul_(2)
    with pytest.raises(RuntimeError, match="changed in place"):
        y.sum().backward()


def test_without_gradients_it_is_a_plain_call() -> None:
    x = torch.ones(3, requires_grad=True)
    with selective(), torch.no_grad():
        assert again(torch.exp, x).grad_fn is None
    assert "Exp" in type(again(torch.exp, x).grad_fn).__name__
