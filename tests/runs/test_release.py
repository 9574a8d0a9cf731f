"""A released model is imported, drawn with, trained and put back, and diffusers draws the same with it."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from support.small_run import here, steps
from support.tiny_pipeline import make_pipeline

SMALL = ("--set", "preview.height=32", "--set", "preview.width=48", "--set", "preview.prompts=[]",
         "--set", "parallel.precision=fp32", "--set", "denoiser.checkpointing=none")  # fmt: skip


def transformer(folder: Path) -> dict[str, bytes]:
    """Every tensor of a transformer/ folder, as dtype and bytes."""
    found: dict[str, bytes] = {}
    for file in sorted((folder / "transformer").glob("*.safetensors")):
        for name, tensor in load_file(file).items():
            found[name] = str(tensor.dtype).encode() + tensor.contiguous().view(torch.uint8).numpy().tobytes()
    return found


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole tiny random pipeline in bfloat16, sharded, as the real one is."""
    folder = make_pipeline(tmp_path_factory.mktemp("released"), shards="150KB")
    for file in (folder / "transformer").glob("*.safetensors"):
        save_file({name: tensor.bfloat16() for name, tensor in load_file(file).items()}, file, {"format": "pt"})
    assert len(list((folder / "transformer").glob("*.safetensors"))) > 1
    return folder


@pytest.fixture(scope="module")
def run(released: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("imported") / "run"
    here("import", released, folder, *SMALL)
    return folder


def test_the_round_trip_gives_every_weight_back_byte_for_byte(released: Path, run: Path, tmp_path: Path) -> None:
    here("export", run, tmp_path / "back")
    assert transformer(tmp_path / "back") == transformer(released)
    for part in ("vae", "text_encoder", "tokenizer", "scheduler"):
        for file in (released / part).iterdir():
            assert (tmp_path / "back" / part / file.name).read_bytes() == file.read_bytes()


def draw(pipeline: Path, noise: torch.Tensor, **call: Any) -> torch.Tensor:
    """diffusers' own drawing: final latents, packed."""
    from diffusers import QwenImagePipeline

    pipe = QwenImagePipeline.from_pretrained(pipeline, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    latents: torch.Tensor = pipe(latents=noise, output_type="latent", height=32, width=48, **call).images
    return latents


def test_a_whole_run_of_the_released_pipeline_is_ours(run: Path, released: Path, tmp_path: Path) -> None:
    """Four steps with true CFG from the same noise: final latents within 1e-4."""
    from qi_core import Dice, Latents
    from qi_core.flow import Guided
    from qi_registry.assemble import painter
    from qi_registry.runs import read_run

    brush = painter(read_run(run, ("sampler.steps=4",)), run)
    prompt, negative = "a cat on a mat", " "
    noise = torch.randn(1, 6, 64, generator=Dice(0, 0).roll(0))
    condition, unwanted = (brush.encoders.condition([text]) for text in (prompt, negative))
    start = Latents(tokens=noise[0], grids=((1, 2, 3),))
    with torch.no_grad():
        ours = brush.sampler.sample(Guided(brush.model, unwanted, brush.guidance), start, condition).tokens
    theirs = draw(released, noise, prompt=prompt, negative_prompt=negative, true_cfg_scale=4.0, num_inference_steps=4)
    assert (ours - theirs[0]).abs().max() <= 1e-4


def test_what_is_exported_after_training_loads_and_draws_the_same(run: Path, tmp_path: Path) -> None:
    from PIL import Image

    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for i in range(4):
        Image.new("RGB", (48 + 16 * (i % 2), 32), (60 * i, 80, 200)).save(pictures / f"{i}.png")
        (pictures / f"{i}.txt").write_text(f"picture number {i}")
    mine = tmp_path / "mine"
    shutil.copytree(run, mine)
    here("run", mine, "--set", f"source.path={pictures}", "--set", "source.side=32", "--set", "train.steps=3",
         "--set", "train.batch=2", "--set", "train.accumulate=1", "--set", "optimizer.warmup=0",
         "--set", "train.ema=0.5", "--set", "optimizer.lr=1e-2", "--set", "source.upscale=allow")  # fmt: skip
    here("export", mine, tmp_path / "trained")
    before, after = transformer(tmp_path / "trained"), transformer_of_run(run)
    assert before.keys() == after.keys()
    assert before != after
    noise = torch.randn(1, 6, 64, generator=torch.Generator().manual_seed(1))
    call = {"prompt": "a cat", "num_inference_steps": 2, "true_cfg_scale": 1.0}
    theirs = draw(tmp_path / "trained", noise, **call)

    from qi_core import Latents
    from qi_registry.assemble import painter
    from qi_registry.runs import read_run

    brush = painter(read_run(mine, ("sampler.steps=2",)), mine)
    start = Latents(tokens=noise[0], grids=((1, 2, 3),))
    with torch.no_grad():
        ours = brush.sampler.sample(brush.model, start, brush.encoders.condition(["a cat"])).tokens
    assert (ours - theirs[0]).abs().max() <= 1e-4


def transformer_of_run(run: Path) -> dict[str, bytes]:
    """The weights of a run's newest checkpoint."""
    newest = sorted((run / "checkpoints").glob("step-*"))[-1]
    with safe_open(newest / "model" / "model.safetensors", framework="pt") as file:
        names = list(file.keys())
        return {name: file.get_tensor(name).view(torch.uint8).numpy().tobytes() for name in names}


def test_bf16_on_request_and_never_fp16(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    here("export", run, tmp_path / "wide", "--dtype", "fp32")
    here("export", run, tmp_path / "half", "--dtype", "fp16", code=2)
    assert "NaN or black pictures" in capsys.readouterr().err
    assert not (tmp_path / "half").exists()
    assert all(value.startswith(b"torch.float32") for value in transformer(tmp_path / "wide").values())


def rewrite(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_the_scheduler_comes_along_and_another_than_ours_is_told(
    released: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = shutil.copytree(released, tmp_path / "source")
    rewrite(source / "scheduler" / "scheduler_config.json", shift_terminal=None, shift=3.0)
    with caplog.at_level(logging.WARNING, logger="qi.denoiser"):
        here("import", source, tmp_path / "run", *SMALL)
    assert "shift is 3.0, not 1.0; shift_terminal is None, not 0.02" in caplog.text
    here("export", tmp_path / "run", tmp_path / "back")
    file = Path("scheduler", "scheduler_config.json")
    assert (tmp_path / "back" / file).read_bytes() == (source / file).read_bytes()


@pytest.mark.parametrize(
    ("kind", "template"),
    [
        ("QwenImageEditPipeline", "edit"),
        ("QwenImageEditPlusPipeline", "edit-plus"),
        ("QwenImagePipeline", "edit-plus"),
    ],
)
def test_an_edit_model_is_told_as_its_pipeline_does(released: Path, tmp_path: Path, kind: str, template: str) -> None:
    from qi_registry.runs import read_run

    source = shutil.copytree(released, tmp_path / "source")
    rewrite(source / "model_index.json", _class_name=kind)
    here("import", source, tmp_path / "run", *SMALL)
    assert read_run(tmp_path / "run").conditioner.edit_template == template  # type: ignore[attr-defined]


def test_one_run_trains_drawing_and_editing_mixed(tmp_path: Path) -> None:
    """Samples with no, one and two references in one batch, of an edit model, from import to export."""
    from PIL import Image

    source = make_pipeline(tmp_path / "edit", zero_cond_t=True)
    rewrite(source / "model_index.json", _class_name="QwenImageEditPlusPipeline")
    for i in range(6):
        Image.new("RGB", (32 + 16 * (i % 3), 48), (40 * i, 80, 200)).save(tmp_path / f"{i}.png")
    records = [
        {"image": f"{i}.png", "caption": f"number {i}", "references": [f"{j}.png" for j in range(i % 3)]}
        for i in range(6)
    ]
    (tmp_path / "edits.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    here("import", source, tmp_path / "run", *SMALL, "--set", "denoiser.checkpointing=all")
    here("run", tmp_path / "run", "--set", f"source.path={tmp_path / 'edits.jsonl'}", "--set", "source.side=32",
         "--set", "train.steps=2", "--set", "train.batch=4", "--set", "train.accumulate=2", "--set", "train.ema=0",
         "--set", "optimizer.warmup=0", "--set", "optimizer.lr=1e-2", "--set", "source.upscale=allow")  # fmt: skip
    told = steps(tmp_path / "run")
    assert [record["step"] for record in told] == [1, 2]
    assert not (tmp_path / "run" / "skipped.jsonl").exists()
    here("export", tmp_path / "run", tmp_path / "trained")
    before, after = transformer(source), transformer(tmp_path / "trained")
    same = {name for name in before if before[name] == after[name]}
    assert all(name.startswith("transformer_blocks.1.") for name in same), "only what the last block doesn't use"


def spoil(released: Path, tmp_path: Path, change: str) -> Path:
    folder = tmp_path / "spoilt"
    shutil.copytree(released, folder)
    file = sorted((folder / "transformer").glob("*.safetensors"))[0]
    tensors = load_file(file)
    name = sorted(tensors)[0]
    if change == "missing":
        del tensors[name]
    elif change == "extra":
        tensors["surprise"] = torch.zeros(1)
    elif change == "misshapen":
        tensors[name] = tensors[name][:1].clone()
    elif change == "fp16":
        tensors[name] = tensors[name].half()
    save_file(tensors, file, {"format": "pt"})
    (folder / "name").write_text(name)
    return folder


@pytest.mark.parametrize(
    ("change", "told"),
    [("missing", "missing"), ("extra", "surprise"), ("misshapen", "misshapen"), ("fp16", "float16")],
)
def test_what_does_not_fit_is_told_by_name(
    released: Path, tmp_path: Path, change: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = spoil(released, tmp_path, change)
    here("import", folder, tmp_path / "run", *SMALL, code=2)
    err = capsys.readouterr().err
    assert told in err
    assert change == "extra" or (folder / "name").read_text() in err
    assert not (tmp_path / "run" / "recipe.toml").exists(), "nothing half-made stays"


def test_a_folder_that_is_no_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    here("import", tmp_path / "nothing", tmp_path / "run", code=2)
    here("import", tmp_path, tmp_path / "run", code=2)
    assert len(capsys.readouterr().err.strip().splitlines()) == 2
