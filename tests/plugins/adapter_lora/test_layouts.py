"""What goes out comes in again, and others read it as it is meant."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import QwenImagePipeline, QwenImageTransformer2DModel
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from qi_core import QiError

from .conftest import EVERYTHING, Adapted, their_velocity, velocity, worst

Adapt = Callable[..., Adapted]
LAYOUTS = ("peft", "diffusers", "comfyui")
SCALES = [
    pytest.param({}, id="alpha = rank"),
    pytest.param({"alpha": 10.0}, id="alpha"),
    pytest.param({"alpha": 3.0, "rslora": True}, id="rslora"),
]


def export(adapted: Adapted, folder: Path, layout: str, dtype: torch.dtype | None = None) -> Path:
    path = folder / (f"{layout}.safetensors" if layout == "comfyui" else layout)
    adapted.settings.export(path, adapted.tensors(), layout, dtype)
    return path


def weights_of(path: Path) -> Path:
    return path if path.is_file() else next(path.glob("*.safetensors"))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("settings", SCALES)
def test_out_and_in_again_is_the_same_lora(adapt: Adapt, tmp_path: Path, layout: str, settings: dict[str, Any]) -> None:
    first = adapt(targets=EVERYTHING, **settings).shake()
    second = adapt(targets=EVERYTHING, weights=export(first, tmp_path, layout), **settings)
    wanted, found = first.tensors(), second.tensors()
    for name, tensor in wanted.items():
        if layout == "diffusers" and name.endswith("lora_B"):  # times the scale and through it: rounded
            assert worst(found[name], tensor) <= 1e-7, name
        else:
            assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_that_is_read_under_another_alpha_is_still_the_same_change(
    adapt: Adapt, tmp_path: Path, layout: str
) -> None:
    first = adapt(alpha=10.0).shake()
    second = adapt(alpha=1.0, weights=export(first, tmp_path, layout))
    for name, delta in first.deltas().items():
        assert worst(second.deltas()[name], delta) < 1e-6


def into_diffusers_model(theirs: QwenImageTransformer2DModel, path: Path) -> None:
    theirs.load_lora_adapter(path, use_safetensors=True)


def into_diffusers_pipeline(theirs: QwenImageTransformer2DModel, path: Path) -> None:
    """What ``QwenImagePipeline.load_lora_weights`` does with its transformer."""
    state, metadata = QwenImagePipeline.lora_state_dict(weights_of(path), return_lora_metadata=True)
    QwenImagePipeline.load_lora_into_transformer(state, theirs, metadata=metadata)


def into_peft(theirs: QwenImageTransformer2DModel, path: Path) -> None:
    PeftModel.from_pretrained(theirs, path)  # puts its layers into the model itself


def into_comfyui(theirs: QwenImageTransformer2DModel, path: Path) -> None:
    """By the rule of comfy/weight_adapter/lora.py, W + alpha / rank * up @ down, layers found as diffusion_model.X."""
    tensors = load_file(path)
    with torch.no_grad():
        for name in {key.rpartition(".alpha")[0] for key in tensors if key.endswith(".alpha")}:
            down, up = tensors.pop(f"{name}.lora_down.weight"), tensors.pop(f"{name}.lora_up.weight")
            weight = theirs.get_parameter(f"{name.removeprefix('diffusion_model.')}.weight")
            weight.add_(float(tensors.pop(f"{name}.alpha")) / len(down) * up @ down)
    assert not tensors


@pytest.mark.parametrize(
    ("layout", "load"),
    [
        ("diffusers", into_diffusers_model),
        ("diffusers", into_diffusers_pipeline),
        ("comfyui", into_diffusers_pipeline),
        ("comfyui", into_comfyui),
        ("peft", into_peft),
    ],
)
@pytest.mark.parametrize("settings", SCALES)
def test_others_compute_with_it_what_we_do(
    adapt: Adapt,
    theirs: QwenImageTransformer2DModel,
    tmp_path: Path,
    layout: str,
    load: Callable[[QwenImageTransformer2DModel, Path], None],
    settings: dict[str, Any],
) -> None:
    adapted = adapt(targets=EVERYTHING, **settings)
    before = their_velocity(theirs)
    ours = velocity(adapted.model).detach()
    adapted.shake()
    load(theirs, export(adapted, tmp_path, layout))
    moved, our_move = their_velocity(theirs) - before, velocity(adapted.model) - ours
    assert our_move.abs().max() > 0.05  # one that does nothing would agree with anything
    assert worst(moved, our_move) <= 2e-5


def test_what_diffusers_saved_with_its_metadata_is_read(
    adapt: Adapt, theirs: QwenImageTransformer2DModel, tmp_path: Path
) -> None:
    config = LoraConfig(r=4, lora_alpha=10, use_rslora=True, target_modules=["to_q", "to_v", "add_k_proj"])
    theirs.add_adapter(config)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "lora_" in name:
                parameter.normal_(0.0, 0.1, generator=generator)
    theirs.save_lora_adapter(tmp_path / "theirs")
    adapted = adapt(targets=("*.to_q", "*.to_v", "*.add_k_proj"), weights=tmp_path / "theirs")
    assert worst(velocity(adapted.model), their_velocity(theirs)) <= 2e-5


def test_a_file_in_kohyas_layout_is_read(adapt: Adapt, tmp_path: Path) -> None:
    first = adapt(alpha=2.0).shake()
    tensors = {
        f"lora_unet_{name.removeprefix('diffusion_model.').replace('.', '_')}.{part}": tensor
        for name, part, tensor in _split(load_file(export(first, tmp_path, "comfyui")))
    }
    save_file(tensors, tmp_path / "kohya.safetensors")
    second = adapt(alpha=2.0, weights=tmp_path / "kohya.safetensors")
    assert all(torch.equal(second.tensors()[name], tensor) for name, tensor in first.tensors().items())


def _split(tensors: dict[str, Tensor]) -> list[tuple[str, str, Tensor]]:
    parts = (".lora_down.weight", ".lora_up.weight", ".alpha")
    return [
        (key.removesuffix(part), part[1:], one) for key, one in tensors.items() for part in parts if key.endswith(part)
    ]


def test_a_half_precision_file_is_half_as_long_and_is_read(adapt: Adapt, tmp_path: Path) -> None:
    first = adapt(alpha=10.0).shake()
    (tmp_path / "bf16").mkdir()
    long = weights_of(export(first, tmp_path, "peft"))
    short = weights_of(export(first, tmp_path / "bf16", "peft", torch.bfloat16))
    assert {tensor.dtype for tensor in load_file(short).values()} == {torch.bfloat16}
    assert 0.4 < short.stat().st_size / long.stat().st_size < 0.6
    second = adapt(alpha=10.0, weights=short.parent)
    for name, delta in first.deltas().items():
        assert worst(second.deltas()[name], delta) < 0.02 * float(delta.abs().max())


def test_where_it_started_from_and_what_it_lacks_is_told(adapt: Adapt, tmp_path: Path) -> None:
    path = export(adapt(targets=("*.to_q",)).shake(), tmp_path, "peft")
    notes = adapt(targets=("*.to_q", "*.to_k"), weights=path).adapter.notes()
    assert notes[-2] == f"lora: starts from {path}"
    assert notes[-1].startswith("lora: not in it, so B starts at zero: 2 layers (")


def test_layers_of_a_file_that_nothing_uses_are_left_out_and_told(
    adapt: Adapt, theirs: QwenImageTransformer2DModel, tmp_path: Path
) -> None:
    theirs.add_adapter(LoraConfig(r=4, lora_alpha=4, target_modules=["to_add_out"]))
    theirs.save_lora_adapter(tmp_path / "theirs")
    notes = adapt(weights=tmp_path / "theirs").adapter.notes()
    left = "1 layer (transformer_blocks.1.attn.to_add_out)"
    assert notes[-1] == f"lora: in it, but left out, for nothing uses their output: {left}"


Change = Callable[[dict[str, Tensor]], dict[str, Tensor]]
Q = "diffusion_model.transformer_blocks.0.attn.to_q"


@pytest.mark.parametrize(
    ("settings", "change", "told"),
    [
        pytest.param({"rank": 8}, dict, "rank of .* is 4, but adapter.rank is 8; set adapter.rank = 4", id="rank"),
        pytest.param(
            {"targets": ("*.to_q",)}, dict, r"adapts 12 layers \(.*which adapter.targets leaves out", id="targets"
        ),
        pytest.param(
            {},
            lambda t: t | {f"{Q}.lora_up.weight": torch.zeros(31, 4)},
            r"attn.to_q has matrices of \(31, 4\) and \(4, 32\), but the layer maps 32 values to 32",
            id="shape",
        ),
        pytest.param(
            {},
            lambda t: {name: one for name, one in t.items() if name != f"{Q}.lora_up.weight"},
            "attn.to_q has only .*; want both",
            id="half",
        ),
        pytest.param({}, lambda t: t | {f"{Q}.dora_scale": torch.ones(32)}, "DoRA is not read", id="dora"),
        pytest.param({}, lambda t: t | {"epoch": torch.ones(1)}, "'epoch' is no part of a LoRA", id="strange"),
        pytest.param(
            {},
            lambda t: {name.replace("to_q", "qkv"): one for name, one in t.items()},
            "attn.qkv', which is no linear layer of this denoiser",
            id="another model's",
        ),
        pytest.param({}, lambda t: {}, "no tensors", id="empty"),
        pytest.param(
            {},
            lambda t: t | {f"{Q}.lora_up.weight": torch.zeros(32, 0), f"{Q}.lora_down.weight": torch.zeros(0, 32)},
            r"attn.to_q has matrices of \(32, 0\)",
            id="rank 0",
        ),
        pytest.param(
            {}, lambda t: t | {f"{Q}.alpha": torch.ones(2)}, r"alpha is \[1.0, 1.0\]; want one number", id="alphas"
        ),
        pytest.param(
            {}, lambda t: t | {f"{Q}.alpha": torch.tensor(torch.nan)}, r"alpha is \[nan\]; want one", id="no alpha"
        ),
        pytest.param(
            {},
            lambda t: t | {f"{Q}.lora_up.weight": torch.full((32, 4), torch.inf)},
            "attn.to_q holds values that are no numbers",
            id="infinite",
        ),
    ],
)
def test_a_file_that_does_not_fit_is_refused_with_the_reason(
    adapt: Adapt, tmp_path: Path, settings: dict[str, Any], change: Change, told: str
) -> None:
    path = export(adapt().shake(), tmp_path, "comfyui")
    save_file(change(load_file(path)), path)
    with pytest.raises(QiError, match=told):
        adapt(weights=path, **settings)


PISSA = {"init_lora_weights": "pissa_niter_4"}


def test_settings_of_peft_that_mean_something_else_are_refused(adapt: Adapt, tmp_path: Path) -> None:
    path = export(adapt().shake(), tmp_path, "peft")
    whole = json.loads((path / "adapter_config.json").read_text())
    for change in ({"use_dora": True}, {"alpha_pattern": {"to_q": 2}}, {"bias": "all"}, {"peft_type": "LOHA"}, PISSA):
        (path / "adapter_config.json").write_text(json.dumps(whole | change))
        with pytest.raises(QiError, match=next(iter(change))):
            adapt(weights=path)
    (path / "adapter_config.json").unlink()
    with pytest.raises(QiError, match="PEFT's settings, which tell the scale"):
        adapt(weights=path)


def test_a_place_without_a_lora_is_told(adapt: Adapt, tmp_path: Path) -> None:
    with pytest.raises(QiError, match="not there"):
        adapt(weights=tmp_path / "nowhere")
    with pytest.raises(QiError, match=r"want adapter_model\.safetensors or"):
        adapt(weights=tmp_path)
    (tmp_path / "text.safetensors").write_text("no tensors")
    with pytest.raises(QiError, match="no readable safetensors file"):
        adapt(weights=tmp_path / "text.safetensors")


def test_an_export_is_whole_or_not_there(adapt: Adapt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapted = adapt().shake()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("qi_plugins.adapter_lora.writing.write", full)
        for layout in LAYOUTS:
            with pytest.raises(QiError, match="No space left"):
                export(adapted, tmp_path, layout)
    assert not list(tmp_path.iterdir())


def test_exports_that_cannot_be_meant_are_refused(adapt: Adapt, tmp_path: Path) -> None:
    adapted = adapt().shake()
    lora, tensors = adapted.settings, adapted.tensors()
    with pytest.raises(QiError, match="no layout of LoRA is called so; there are peft, diffusers, comfyui"):
        lora.export(tmp_path / "out", tensors, "kohya", None)
    with pytest.raises(QiError, match="one file"):
        lora.export(tmp_path / "out", tensors, "comfyui", None)
    with pytest.raises(QiError, match="a folder"):
        lora.export(tmp_path / "out.safetensors", tensors, "peft", None)
    (tmp_path / "out").mkdir()
    with pytest.raises(QiError, match="is there already"):
        lora.export(tmp_path / "out", tensors, "peft", None)
    with pytest.raises(QiError, match="no LoRA is among these weights"):
        lora.export(tmp_path / "new", {"img_in.weight": torch.zeros(2, 2)}, "peft", None)
