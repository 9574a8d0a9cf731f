"""The formula behind MFU counts what torch counts."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from qi_core import Condition, Grid, Latents, Place
from qi_plugins.mmdit.component import MMDiT

WIDTH, TEXT = 16, 24
CASES: dict[str, list[tuple[int, Grid, tuple[Grid, ...]]]] = {
    "one": [(5, (1, 4, 6), ())],
    "equal": [(7, (1, 3, 5), ())] * 3,
    "references": [(40, (1, 12, 10), ((1, 4, 4), (1, 3, 2))), (9, (1, 8, 20), ()), (60, (1, 11, 9), ((1, 5, 2),))],
}


@pytest.fixture(scope="module")
def flops() -> ModuleType:
    """benchmarks/ is no package: its files are scripts."""
    path = Path(__file__).parents[2] / "benchmarks" / "flops.py"
    spec = importlib.util.spec_from_file_location("flops", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["flops"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("zero_cond_t", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_the_formula_is_torchs_count(flops: ModuleType, tmp_path: Path, case: str, zero_cond_t: bool) -> None:
    place = Place(device=torch.device("cpu"), dtype=torch.float32, seed=0, folder=tmp_path)
    settings = MMDiT(
        layers=3, heads=4, head_dim=16, axes_dims_rope=(4, 6, 6), mlp_ratio=3, zero_cond_t=zero_cond_t, attention="sdpa"
    )
    model = settings.build(place, WIDTH, TEXT)
    sizes = [
        flops.Tokens(text=text, target=grid[0] * grid[1] * grid[2], references=sum(a * b * c for a, b, c in references))
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
        assert counter.get_total_flops() == flops.forward_flops(arch, sizes)
        out.tokens.sum().backward()
    # Not quite three times: what comes in needs no gradient.
    assert counter.get_total_flops() == pytest.approx(flops.training_flops(arch, sizes), rel=0.05)


def test_the_released_model_at_1024_pixels_is_72_teraflop(flops: ModuleType) -> None:
    """Counted apart from this code, on the shapes of the released network."""
    arch = MMDiT(size="20b").architecture(64, 3584)
    assert flops.forward_flops(arch, [flops.Tokens(text=100, target=4096)]) == pytest.approx(72e12, rel=0.05)
