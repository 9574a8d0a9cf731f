"""A released folder is read whole or refused, and what is wrong with it is told by name."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import QwenImageTransformer2DModel
from safetensors.torch import load_file, save_file

from qi_core import Place, QiError
from qi_plugins.mmdit.architecture import PRESETS
from qi_plugins.mmdit.component import MMDiT
from qi_plugins.mmdit.network import MMDiTNetwork
from qi_plugins.mmdit.weights import SINGLE, diffusers_config

from .conftest import TEXT, WIDTH, make_oracle


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_oracle().save_pretrained(tmp_path / "transformer")
    return tmp_path / "transformer"


def build(folder: Path, place: Place, **settings: Any) -> MMDiTNetwork:
    return MMDiT(weights=folder, **settings).build(place, WIDTH, TEXT)


def edit(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / SINGLE)
    change(tensors)
    save_file(tensors, folder / SINGLE)


def configure(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_the_released_configuration_has_the_released_names_and_count() -> None:
    arch = MMDiT(size="20b").architecture(64, 3584)
    config = {key: value for key, value in diffusers_config(arch).items() if not key.startswith("_")}
    with torch.device("meta"):
        ours, theirs = MMDiTNetwork(arch), QwenImageTransformer2DModel(**config)
    found = {name: tensor.shape for name, tensor in ours.state_dict().items()}
    assert found == {name: tensor.shape for name, tensor in theirs.state_dict().items()}
    assert sum(shape.numel() for shape in found.values()) == 20_430_401_088


def test_the_layered_variant_has_one_embedding_more() -> None:
    arch = MMDiT(size="20b", use_additional_t_cond=True, use_layer3d_rope=True).architecture(64, 3584)
    with torch.device("meta"):
        assert sum(p.numel() for p in MMDiTNetwork(arch).parameters()) == 20_430_401_088 + 6_144


def test_tiny_is_tiny(place: Place) -> None:
    network = MMDiT().build(place, 192, 64)
    assert network.arch.layers == PRESETS["tiny"].layers
    assert 500_000 <= sum(p.numel() for p in network.parameters()) <= 2_600_000


def test_shards_with_an_index(tmp_path: Path, place: Place) -> None:
    oracle = make_oracle()
    oracle.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    ours = build(tmp_path, place).state_dict()
    assert ours.keys() == oracle.state_dict().keys()
    assert all(torch.equal(ours[name], tensor) for name, tensor in oracle.state_dict().items())


def test_bfloat16_weights_become_float32(folder: Path, place: Place) -> None:
    edit(folder, lambda tensors: tensors.update({name: t.bfloat16() for name, t in tensors.items()}))
    assert {p.dtype for p in build(folder, place).parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda t: t.pop("txt_norm.weight"), "missing: txt_norm.weight"),
        (lambda t: t.update(junk=torch.ones(1)), "extra: junk"),
        (
            lambda t: t.update({"img_in.weight": torch.ones(64, 3)}),
            r"misshapen: img_in.weight is \(64, 3\), wanted \(64, 16\)",
        ),
        (lambda t: t.update({"img_in.bias": t["img_in.bias"].half()}), "img_in.bias is float16.*NaN or black"),
        (lambda t: t.update({"img_in.bias": t["img_in.bias"].int()}), "img_in.bias is torch.int32"),
    ],
    ids=["missing", "extra", "misshapen", "float16", "int"],
)
def test_wrong_tensors_are_named(
    folder: Path, place: Place, change: Callable[[dict[str, torch.Tensor]], object], told: str
) -> None:
    edit(folder, change)
    with pytest.raises(QiError, match=told):
        build(folder, place)


def test_a_dtype_without_a_name_here_is_told(folder: Path, place: Place) -> None:
    edit(folder, lambda t: t.update({"img_in.bias": t["img_in.bias"].to(torch.complex64)}))
    with pytest.raises(QiError, match=r"img_in\.bias is C64; want one of"):
        build(folder, place)


def test_all_mistakes_are_told_at_once(folder: Path, place: Place) -> None:
    edit(folder, lambda t: (t.pop("txt_norm.weight"), t.update(junk=torch.ones(1))))
    with pytest.raises(QiError, match=r"missing: txt_norm\.weight; extra: junk"):
        build(folder, place)


def test_damaged_and_absent_files(folder: Path, place: Place) -> None:
    (folder / SINGLE).write_bytes((folder / SINGLE).read_bytes()[:1000])
    with pytest.raises(QiError, match=rf"{SINGLE}: no readable safetensors file"):
        build(folder, place)
    (folder / SINGLE).unlink()
    with pytest.raises(QiError, match="want a diffusers transformer folder"):
        build(folder, place)
    (folder / "config.json").unlink()
    with pytest.raises(QiError, match=r"config\.json: No such file"):
        build(folder, place)


def test_an_absent_shard_is_named(tmp_path: Path, place: Place) -> None:
    make_oracle().save_pretrained(tmp_path, max_shard_size="100KB")
    shard = sorted(tmp_path.glob("*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(QiError, match=re.escape(shard.name)):
        build(tmp_path, place)


def test_known_legacy_keys_pass_and_unknown_ones_are_told(folder: Path, place: Place) -> None:
    configure(folder, pooled_projection_dim=768, guidance_embeds=False)
    build(folder, place)
    configure(folder, causal_condition=True)
    with pytest.raises(QiError, match="unknown keys causal_condition"):
        build(folder, place)


def test_settings_that_contradict_the_weights_are_refused(folder: Path, place: Place) -> None:
    assert build(folder, place, heads=4).arch.heads == 4
    for settings, told in (
        ({"heads": 2}, "heads is 4, but the recipe's denoiser says 2"),
        ({"size": "20b"}, "layers is 3, but the recipe's denoiser says 60"),
        ({"zero_cond_t": True}, "zero_cond_t is False"),
    ):
        with pytest.raises(QiError, match=told):
            build(folder, place, **settings)


def test_released_weights_give_the_velocity(folder: Path, place: Place) -> None:
    with pytest.raises(QiError, match="predicts is 'data', but the released weights in"):
        build(folder, place, predicts="data")
    with pytest.raises(QiError, match="predicts is 'data', but the released weights in"):
        MMDiT(predicts="data").at(folder.parent)


def test_a_config_value_of_the_wrong_type_is_told(folder: Path, place: Place) -> None:
    configure(folder, num_layers="3")
    with pytest.raises(QiError, match="num_layers is '3'; want a whole number"):
        build(folder, place)
