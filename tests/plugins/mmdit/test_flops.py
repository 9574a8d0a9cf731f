"""The formula behind MFU counts what torch counts."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from qi_core import Condition, Grid, Latents, Place
from qi_core.planning import Tokens
from qi_plugins.mmdit.component import MMDiT
from qi_plugins.mmdit.cost import block_flops, forward_flops, training_flops

WIDTH, TEXT = 16, 24
CASES: dict[str, list[tuple[int, Grid, tuple[Grid, ...]]]] = {
    "one": [(5, (1, 4, 6), ())],
    "equal": [(7, (1, 3, 5), ())] * 3,
    "references": [(40, (1, 12, 10), ((1, 4, 4), (1, 3, 2))), (9, (1, 8, 20), ()), (60, (1, 11, 9), ((1, 5, 2),))],
}


@pytest.mark.parametrize("zero_cond_t", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_the_formula_is_torchs_count(tmp_path: Path, case: str, zero_cond_t: bool) -> None:
    place = Place(device=torch.device("cpu"), dtype=torch.float32, seed=0, folder=tmp_path)
    settings = MMDiT(
        layers=3, heads=4, head_dim=16, axes_dims_rope=(4, 6, 6), mlp_ratio=3, zero_cond_t=zero_cond_t, attention="sdpa"
    )
    model = settings.build(place, WIDTH, TEXT)
    sizes = [
        Tokens(text=text, target=grid[0] * grid[1] * grid[2], references=sum(a * b * c for a, b, c in references))
        for text, grid, references in CASES[case]
    ]
    grids = tuple(grid for _, _, references in CASES[case] for grid in references)
    shown = Latents(tokens=torch.randn(sum(s.references for s in sizes), WIDTH), grids=grids)
    condition = Condition(
        text=torch.randn(sum(s.text for s in sizes), TEXT),
        lengths=tuple(s.text for s in sizes),
        references=shown if grids else None,
        reference_counts=tuple(len(references) for _, _, references in CASES[case]) if grids else (),
    )
    latents = Latents(
        tokens=torch.randn(sum(s.target for s in sizes), WIDTH), grids=tuple(grid for _, grid, _ in CASES[case])
    )
    counter = FlopCounterMode(display=False)
    with sdpa_kernel(SDPBackend.MATH), counter:  # the one form of attention that the counter sees on a CPU
        out = model.velocity(latents, torch.full((len(sizes),), 0.5), condition)
        arch = settings.architecture(WIDTH, TEXT)
        assert counter.get_total_flops() == forward_flops(arch, sizes)
        out.tokens.sum().backward()
    # Not quite three times: what comes in needs no gradient.
    assert counter.get_total_flops() == pytest.approx(training_flops(arch, sizes), rel=0.05)


def test_the_released_model_at_1024_pixels_is_72_teraflop() -> None:
    """Counted apart from this code, on the shapes of the released network."""
    arch = MMDiT(size="20b").architecture(64, 3584)
    assert forward_flops(arch, [Tokens(text=100, target=4096)]) == pytest.approx(72e12, rel=0.05)


def test_tensor_parallel_ranks_share_the_blocks_and_repeat_the_ends() -> None:
    """Cut by hand: a rank's block is one with that part of the heads and of every product's features."""
    arch = MMDiT(size="20b").architecture(64, 3584)
    samples = [Tokens(text=100, target=1600), Tokens(text=64, target=900, references=256)]
    ends = forward_flops(arch, samples) - sum(block_flops(arch, samples))
    for tensor in (2, 3, 4, 8):
        shares = [block_flops(arch, samples, tensor)] * tensor
        assert sum(map(sum, shares)) == pytest.approx(sum(block_flops(arch, samples)), rel=1e-9)
        assert forward_flops(arch, samples, tensor) == sum(shares[0]) + ends


def test_a_rank_with_half_the_heads_is_counted_by_torch(tmp_path: Path) -> None:
    """Linears cut in half, as tensor parallelism of degree 2 does; the biases and sums change no products."""
    place = Place(device=torch.device("cpu"), dtype=torch.float32, seed=0, folder=tmp_path)
    settings = MMDiT(layers=3, heads=4, head_dim=16, axes_dims_rope=(4, 6, 6), attention="sdpa")
    model = settings.build(place, WIDTH, TEXT)
    sharding = model.sharding()
    for name, module in model.named_modules():
        split = next((s for p, s in sharding.weights.items() if fnmatchcase(f"{name}.weight", p)), "replicated")
        if isinstance(module, torch.nn.Linear) and split in ("rows", "columns", "heads"):
            rows, columns = module.weight.shape
            cut = module.weight[:, : columns // 2] if split == "rows" else module.weight[: rows // 2]
            module.weight = torch.nn.Parameter(cut.detach())
            if split != "rows":
                module.bias = torch.nn.Parameter(module.bias[: rows // 2].detach())
    condition = Condition(text=torch.randn(9, TEXT), lengths=(9,))
    latents = Latents(tokens=torch.randn(140, WIDTH), grids=((1, 10, 14),))
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.velocity(latents, torch.full((1,), 0.5), condition)
    arch, sample = settings.architecture(WIDTH, TEXT), Tokens(text=9, target=140)
    # The modulation's share is gathered: here each rank computes all of it.
    modulation = 3 * 2 * 12 * arch.width**2
    found = counter.get_total_flops() - modulation // 2
    assert found == pytest.approx(forward_flops(arch, [sample], 2), rel=0.01)
