"""What benchmarks/gpu.py measures runs without a card too, at a tiny size, and is counted as torch counts."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from qi_core import Place
from qi_plugins.mmdit.component import MMDiT
from qi_plugins.parallel_single.component import Single

CPU = torch.device("cpu")
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


@pytest.mark.slow
def test_training_steps_are_measured_in_every_way(gpu: ModuleType) -> None:
    """And beside diffusers', on the same tokens; the plan foretells each."""
    gpu_steps, peers = (importlib.import_module(name) for name in ("gpu_steps", "gpu_diffusers"))
    ways = gpu_steps.ways("cpu", compiled=False)
    assert [way.name for way in ways] == ["qi, sdpa", "qi, auto", "qi, selective"]
    rows: list[Any] = []
    notes: list[str] = []
    for way in ways[1:]:
        gpu_steps.attempt(lambda way=way: gpu_steps.train(way, TINY, [64, 32], TOKENS, 1, PEAK), way.name, rows, notes)
    gpu_steps.attempt(lambda: peers.train(TINY, CPU, [32], TOKENS, 1, PEAK), peers.NAME, rows, notes)
    assert notes == []
    assert [(row.way, row.pixels, row.pictures) for row in rows] == [
        *(("qi, auto", 32, 4), ("qi, auto", 64, 1)),
        *(("qi, selective", 32, 4), ("qi, selective", 64, 1)),
        ("diffusers", 32, 4),
    ]
    assert all(0 < row.mfu < 1 for row in rows)
    assert len({(row.tokens, row.teraflop) for row in rows if row.pixels == 32}) == 1
    assert 0 < rows[2].planned < rows[0].planned
    assert gpu.line(rows[0], 2 * rows[0].seconds)[-1] == "2.00"


def test_the_largest_cut_that_fits_is_chosen(gpu: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    small, large = (gpu.model("20b", CPU, [256], tokens).layers for tokens in (1 << 14, 256))
    assert 1 <= small <= large < 60
    assert (gpu.model("20b:3", CPU, [256], 256).layers, gpu.model("1b", CPU, [256], 256).layers) == (3, None)
    with pytest.raises(SystemExit):
        gpu.model("20b:0", CPU, [256], 256)
    assert "--models 20b:0: wanted one of" in capsys.readouterr().err


def test_the_operations_that_take_most_are_told(gpu: ModuleType) -> None:
    (first, *others) = importlib.import_module("gpu_steps").profiled(TINY, "cpu", PIXELS, TOKENS, top=10)
    assert len(others) == 9
    assert all(first[3] >= share > 0 for _, _, _, share in others)


@pytest.mark.skipif(torch.cuda.is_available(), reason="says so where there is no card")
def test_without_a_card_it_says_so(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["gpu.py"])
    with pytest.raises(SystemExit) as ended:
        gpu.main()
    assert ended.value.code == 2
    assert "needs a CUDA card" in capsys.readouterr().err


def test_the_autoencoder_is_measured(gpu: ModuleType, place: Place) -> None:
    (row,) = gpu.vae(place, [PIXELS], 8, 1)
    assert row.pictures == 1
    assert row.encode > 0
    assert row.decode > 0
