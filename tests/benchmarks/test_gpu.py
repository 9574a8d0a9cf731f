"""What benchmarks/gpu.py measures runs without a card too, at a tiny size, and is counted as torch counts."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from qi_core import Place
from qi_plugins.mmdit.component import MMDiT
from qi_plugins.parallel_single.component import Single

PEAK = 1.0
TOKENS = 16
"""Two pictures, each guided, of 2 x 2 tokens."""
PIXELS = 32
TINY = MMDiT(layers=1, heads=2, head_dim=16, axes_dims_rope=(4, 6, 6), attention="sdpa")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return importlib.import_module("gpu")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(device=torch.device("cpu"), dtype=torch.float32, seed=0, folder=tmp_path)


def test_rollouts_and_updates_are_measured(gpu: ModuleType, place: Place) -> None:
    strategy = Single(device="cpu", precision="fp32").build()
    rollout, update = gpu.reinforce(TINY, strategy, place, [PIXELS], TOKENS, 1, PEAK)
    assert (rollout.part, rollout.pictures, rollout.passes) == ("rollout", 2, 2 * 10 * 2)
    assert (update.part, update.pictures, update.passes) == ("update", 2, 2 * 2 * 4)
    for row in (rollout, update):
        assert 0 < row.mfu < 1


def test_their_operations_are_torchs_count(gpu: ModuleType, place: Place) -> None:
    """Of a rollout exactly; of an update less what has no gradient: its input."""
    rl = importlib.import_module("gpu_rl")
    strategy = Single(device="cpu", precision="fp32").build()
    model = strategy.place(TINY.build(place, gpu.CHANNELS, gpu.TEXT_WIDTH))
    arch, prompts = TINY.architecture(gpu.CHANNELS, gpu.TEXT_WIDTH), rl.Prompts.of(PIXELS, 2, place.device)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        drawn = rl.draw(model, strategy, prompts)
    assert counter.get_total_flops() == rl.drawing_flops(arch, prompts)
    learner = rl.Learner(model, strategy)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        learner.update(drawn)
    assert counter.get_total_flops() == pytest.approx(rl.learning_flops(arch, prompts), rel=0.01)


def test_the_autoencoder_is_measured(gpu: ModuleType, place: Place) -> None:
    (row,) = gpu.vae(place, [PIXELS], 8, 1)
    assert row.pictures == 1
    assert row.encode > 0
    assert row.decode > 0
