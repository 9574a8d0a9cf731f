"""A run with a LoRA, from its recipe to the files that others read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import QwenImageTransformer2DModel
from safetensors.torch import load_file

from support.small_run import here, losses, qi, write_recipe

LORA = ("--set", "adapter.rank=4", "--set", "adapter.alpha=10.0", "--set", 'adapter.targets=["*.attn.*", "*_mlp.*"]')
OFTEN = ("--set", "train.ema=0.5", "--set", "train.save_every=3")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    here("run", write_recipe(folder), "--folder", folder / "run", "--set", "train.steps=12")
    return folder / "run"


def start(folder: Path, base: str | Path, steps: int, *more: str, code: int = 0) -> None:
    """Begin, or go on with, a run that adapts another's model. ``base``: its folder, or other words that name it."""
    init = ("--set", f'init="{base}"') if isinstance(base, Path) else ("--set", base)
    words = ("--set", 'adapter="lora"', *LORA, *OFTEN, *init, "--set", "optimizer.lr=0.05")
    here(
        "run",
        write_recipe(folder.parent),
        "--folder",
        folder,
        "--set",
        f"train.steps={steps}",
        *words,
        *more,
        code=code,
    )


@pytest.fixture(scope="module")
def run(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lora") / "run"
    start(folder, base, 9)
    return folder


def test_checkpoints_hold_the_lora_alone_and_the_base_is_kept_once(run: Path) -> None:
    for file in sorted((run / "checkpoints/step-00000009").rglob("*.safetensors")):
        assert {name.rpartition(".")[2] for name in load_file(file)} == {"lora_A", "lora_B"}, file
    assert len(list((run / "base").rglob("*.safetensors"))) == 1


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("begins", ["from a run", "from a released folder"])
def test_a_run_that_is_broken_off_goes_on_bit_for_bit(base: Path, tmp_path: Path, precision: str, begins: str) -> None:
    """In bfloat16 too, though a released folder is read in float32 and what a run keeps of it in bfloat16."""
    init: str | Path = base
    if begins == "from a released folder":
        here("export", base, tmp_path / "released")
        init = f'denoiser.weights="{tmp_path / "released/transformer"}"'
    more = ("--set", f"parallel.precision={precision}")
    for name in ("whole", "broken"):
        (tmp_path / name).mkdir()
    start(tmp_path / "whole/run", init, 6, *more)
    start(tmp_path / "broken/run", init, 3, *more)
    start(tmp_path / "broken/run", init, 6, *more)
    assert losses(tmp_path / "broken/run") == losses(tmp_path / "whole/run")
    ends = [
        load_file(next((tmp_path / name / "run/checkpoints/step-00000006").rglob("model*.safetensors")))
        for name in ("whole", "broken")
    ]
    assert ends[0]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_a_start_that_failed_leaves_no_base_to_a_start_from_elsewhere(base: Path, tmp_path: Path) -> None:
    """The base is kept before patterns are held against it, so a slip of the pen must not decide what is adapted."""
    here("run", write_recipe(tmp_path), "--folder", tmp_path / "other", "--set", "train.steps=2")
    start(tmp_path / "run", tmp_path / "other", 1, "--set", 'adapter.targets=["*.nothing"]', code=2)
    start(tmp_path / "run", base, 1)
    kept, wanted = (
        load_file(next((folder / "checkpoints").rglob(files)))
        for folder, files in ((tmp_path / "run/base", "*.safetensors"), (base, "step-00000012/ema/*.safetensors"))
    )
    assert kept.keys() == wanted.keys()
    assert all(torch.equal(kept[name], tensor) for name, tensor in wanted.items())


def velocity(model: QwenImageTransformer2DModel) -> torch.Tensor:
    generator = torch.Generator().manual_seed(4)
    config = model.config
    with torch.no_grad():
        out: torch.Tensor = model(
            hidden_states=torch.randn(1, 8, config.in_channels, generator=generator),
            encoder_hidden_states=torch.randn(1, 5, config.joint_attention_dim, generator=generator),
            timestep=torch.tensor([0.4]),
            img_shapes=[[(1, 2, 4)]],
            return_dict=False,
        )[0]
    return out


@pytest.mark.parametrize("weights", [(), ("--live-weights",)])
def test_the_merged_export_is_the_base_export_with_the_adapters_export(
    base: Path, run: Path, tmp_path: Path, weights: tuple[str, ...]
) -> None:
    here("export", base, tmp_path / "base")
    here("export", run, tmp_path / "merged", *weights)
    here("export", run, tmp_path / "lora", "--adapter", "diffusers", *weights)
    plain = QwenImageTransformer2DModel.from_pretrained(tmp_path / "base/transformer")
    merged = QwenImageTransformer2DModel.from_pretrained(tmp_path / "merged/transformer")
    before = velocity(plain)
    plain.load_lora_adapter(tmp_path / "lora", use_safetensors=True)
    assert (velocity(merged) - before).abs().max() > 1e-2
    assert torch.allclose(velocity(merged), velocity(plain), atol=2e-5)


def test_every_layout_is_written_by_the_command_and_starts_another_run(base: Path, run: Path, tmp_path: Path) -> None:
    for layout, target in (("peft", "peft"), ("diffusers", "diffusers"), ("comfyui", "comfyui.safetensors")):
        here("export", run, tmp_path / target, "--adapter", layout, "--dtype", "bf16")
        (tmp_path / f"next-{layout}").mkdir()
        start(tmp_path / f"next-{layout}/run", base, 1, "--set", f'adapter.weights="{tmp_path / target}"')


def test_a_run_without_an_adapter_has_none_to_export(base: Path, tmp_path: Path) -> None:
    assert "its recipe has no adapter; leave --adapter out" in qi(
        "export", base, tmp_path / "out", "--adapter", "peft", code=2
    )
