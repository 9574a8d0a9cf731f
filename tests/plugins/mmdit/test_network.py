"""What the network promises beyond equal numbers."""

from __future__ import annotations

import subprocess
import sys
from fnmatch import fnmatch

import pytest
import torch
from attrs import evolve
from torch._dynamo.testing import CompileCounterWithBackend

from qi_core import Condition, Latents, Place, QiError
from qi_plugins.mmdit.component import MMDiT
from qi_plugins.mmdit.network import MMDiTNetwork
from qi_plugins.mmdit.rope import Kept

from .conftest import TEXT, WIDTH, Case, Inputs

SMALL = MMDiT(layers=3, heads=4, head_dim=16, axes_dims_rope=(4, 6, 6))
MIXED = Inputs.of(
    Case(target=(1, 4, 6), text=5, references=((1, 3, 5),), sigma=0.25),
    Case(target=(1, 2, 3), text=8, sigma=0.5),
)


def shaken(network: MMDiTNetwork) -> MMDiTNetwork:
    """Away from the zeros of the start, which hide most gradients."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return network


def gradients(network: MMDiTNetwork, *, autocast: bool = False) -> dict[str, torch.Tensor]:
    network.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        out = network.velocity(MIXED.latents, MIXED.t, MIXED.condition).tokens
    out.square().mean().backward()
    return {name: p.grad for name, p in network.named_parameters() if p.grad is not None}


def test_importing_the_component_does_not_import_torch() -> None:
    code = "import sys, qi_plugins.mmdit.component as c; c.MMDiT(size='20b'); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_new_weights_depend_on_the_seed_alone(place: Place) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = SMALL.build(place, WIDTH, TEXT).state_dict()
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    again = SMALL.build(place, WIDTH, TEXT).state_dict()
    other = SMALL.build(evolve(place, seed=4), WIDTH, TEXT).state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())
    assert not torch.equal(first["img_in.weight"], other["img_in.weight"])


@pytest.mark.parametrize("checkpointing", ["none", "selective", "all", 2])
@pytest.mark.parametrize("autocast", [False, True], ids=["fp32", "bf16"])
def test_every_trainable_tensor_gets_a_gradient(place: Place, checkpointing: str | int, autocast: bool) -> None:
    network = shaken(evolve(SMALL, checkpointing=checkpointing).build(place, WIDTH, TEXT))
    found = gradients(network, autocast=autocast)
    trainable = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert found.keys() == trainable
    assert all(grad.any() for grad in found.values())
    # What the last block's text would need is frozen, and stays in the checkpoint.
    dead = set(network.state_dict()) - trainable
    assert {name.split(".", 2)[1] for name in dead} == {"2"}
    assert {".".join(name.split(".")[2:4]) for name in dead} == {
        *("attn.to_add_out", "attn.add_q_proj", "attn.norm_added_q", "txt_mlp.net"),
    }


@pytest.mark.parametrize("checkpointing", ["selective", "all", 2])
def test_checkpointing_changes_no_gradient(place: Place, checkpointing: str | int) -> None:
    plain = gradients(shaken(SMALL.build(place, WIDTH, TEXT)))
    kept = gradients(shaken(evolve(SMALL, checkpointing=checkpointing).build(place, WIDTH, TEXT)))
    assert all(torch.equal(grad, kept[name]) for name, grad in plain.items())


def test_predicting_data_gives_the_velocity_that_leads_there(place: Place) -> None:
    """v = (x0_hat - x_t) / max(1 - t, 0.05); the weights of a network of the other kind would give -v directly."""
    direct = shaken(SMALL.build(place, WIDTH, TEXT))
    data = evolve(SMALL, predicts="data").build(place, WIDTH, TEXT)
    data.load_state_dict(direct.state_dict())
    t = torch.tensor([0.25, 0.99])
    estimate = -direct.velocity(MIXED.latents, t, MIXED.condition).tokens
    found = data.velocity(MIXED.latents, t, MIXED.condition)
    noise = found.per_token(torch.tensor([0.75, 0.05]))
    torch.testing.assert_close(MIXED.latents.tokens + noise * found.tokens, estimate)


def test_it_learns_from_its_first_weights(place: Place) -> None:
    """One batch by heart: x_t that do not tell the answer, texts that do."""
    network = SMALL.build(place, WIDTH, TEXT)
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=3e-3)
    target = torch.randn(MIXED.latents.tokens.shape, generator=torch.Generator().manual_seed(9))
    losses = []
    for _ in range(60):
        loss = (network.velocity(MIXED.latents, MIXED.t, MIXED.condition).tokens - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]


def test_the_sharding_plan_names_weights_that_are_there(place: Place) -> None:
    network = SMALL.build(place, WIDTH, TEXT)
    plan = network.sharding()
    assert len(network.get_submodule(plan.blocks)) == 3  # type: ignore[arg-type]
    for pattern, split in plan.weights.items():
        found = [p for name, p in network.named_parameters() if fnmatch(name, pattern)]
        assert len(found) == 3, pattern
        assert all(p.shape[split == "rows"] % plan.heads == 0 for p in found), pattern


def test_batches_that_do_not_fit_together_are_refused(place: Place) -> None:
    network = SMALL.build(place, WIDTH, TEXT)
    with pytest.raises(QiError, match="2 pictures, 1 times"):
        network.velocity(MIXED.latents, MIXED.t[:1], MIXED.condition)
    with pytest.raises(QiError, match="1 reference pictures, but reference_counts says 2"):
        network.velocity(MIXED.latents, MIXED.t, evolve(MIXED.condition, reference_counts=(1, 1)))
    with pytest.raises(QiError, match="sample 1 of the batch has no text tokens"):
        network.velocity(MIXED.latents, MIXED.t, evolve(MIXED.condition, lengths=(13, 0)))


def test_encoders_of_another_width_are_refused(place: Place) -> None:
    with pytest.raises(QiError, match="in_channels: 64, but the autoencoder's latents are 16 wide"):
        evolve(SMALL, in_channels=64).build(place, WIDTH, TEXT)
    with pytest.raises(QiError, match="text_width: 8, but the conditioner's tokens are 24 wide"):
        evolve(SMALL, text_width=8).build(place, WIDTH, TEXT)
    with pytest.raises(QiError, match=r"axes_dims_rope.*whose sum is head_dim"):
        evolve(SMALL, head_dim=32).build(place, WIDTH, TEXT)
    with pytest.raises(ValueError, match="every n-th block"):
        MMDiT(checkpointing=0)


def test_a_run_of_new_shapes_does_not_fill_the_memory(place: Place) -> None:
    kept: Kept[int, int] = Kept(30, lambda thing: thing)
    assert [kept.get(i, lambda i=i: 10 * i) for i in (1, 2, 1, 3)] == [10, 20, 10, 30]
    assert list(kept._things) == [3]
    assert [kept.get(i, lambda i=i: i) for i in (10, 11, 10, 12)] == [10, 11, 10, 12]
    assert list(kept._things) == [10, 12]
    kept.get(99, lambda: 99)
    assert list(kept._things) == [99], "the last stays, however large"


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # the tracer's own
@pytest.mark.parametrize("autocast", [False, True], ids=["fp32", "bf16"])
def test_batches_of_other_lengths_are_not_compiled_anew(place: Place, autocast: bool) -> None:
    torch.compiler.reset()
    network = shaken(SMALL.build(place, WIDTH, TEXT))
    graphs = CompileCounterWithBackend("aot_eager")
    plain = [drawn(network, i, autocast=autocast) for i in range(8)]
    for block in network.get_submodule(network.sharding().blocks).children():
        block.compile(backend=graphs)
    counts = []
    for i, wanted in enumerate(plain):
        found = drawn(network, i, autocast=autocast)
        torch.testing.assert_close(found, wanted, rtol=0.02 if autocast else 1e-4, atol=0.02 if autocast else 1e-5)
        counts.append(graphs.frame_count)
    assert 0 < counts[2] == counts[-1]


def drawn(network: MMDiTNetwork, i: int, *, autocast: bool) -> torch.Tensor:
    """A batch that no other i gives, and through its gradients too; of these, one."""
    references = [((1, 2, 2),) * (i % 3), ()]
    cases = [Case(target=(1, 2 + i, 3), text=4 + 3 * i + j, references=references[j]) for j in range(1 + i % 2)]
    inputs = Inputs.of(*cases)
    network.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        out = network.velocity(inputs.latents, inputs.t, inputs.condition).tokens
    out.square().mean().backward()
    grad = network.img_in.weight.grad
    assert grad is not None
    return torch.cat([out.detach(), grad])


def test_nothing_of_a_sample_reaches_another(place: Place) -> None:
    network = shaken(SMALL.build(place, WIDTH, TEXT))
    latents, condition = MIXED.latents, MIXED.condition
    tokens, text = latents.tokens.clone().requires_grad_(), condition.text.clone().requires_grad_()
    first = network.velocity(
        Latents(tokens=tokens, grids=latents.grids),
        MIXED.t,
        Condition(
            text=text, lengths=condition.lengths, references=condition.references, reference_counts=condition.counts
        ),
    ).split()[0]
    first.tokens.sum().backward()
    assert tokens.grad is not None
    assert text.grad is not None
    assert tokens.grad[:24].any()
    assert not tokens.grad[24:].any()
    assert text.grad[:5].any(dim=-1).all()
    assert not text.grad[5:].any()
