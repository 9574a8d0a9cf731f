"""Encoders say how wide and how large they are without being built."""

from __future__ import annotations

from pathlib import Path

from qi_core.planning import Size, Sized
from qi_plugins.autoencoder_patchify.component import Patchify
from qi_plugins.cond_qwen25vl.component import RELEASED, Qwen25VL
from qi_plugins.conditioner_characters.component import Characters
from qi_plugins.vae_qwen.component import VaeQwen


def test_stand_ins_of_a_laptop_hold_no_weights() -> None:
    assert Patchify(patch=8).plan_size() == Size(width=192, scale=8)
    assert Characters(width=256).plan_size() == Size(width=256)
    assert isinstance(Patchify(), Sized)


def test_the_released_vae(tmp_path: Path) -> None:
    size = VaeQwen(path=tmp_path / "nowhere").plan_size()
    assert (size.width, size.scale) == (64, 16)
    assert 0.127e9 / 3 < size.parameters < 0.127e9 / 2  # of the cubes in the files, pictures use a slice
    assert "taken as released" in size.note


def test_the_released_text_encoder_is_counted_as_transformers_has_it() -> None:
    import torch
    from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLTextConfig
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLTextModel

    with torch.device("meta"):
        model = Qwen2_5_VLTextModel(Qwen2_5_VLTextConfig(**RELEASED))
    size = Qwen25VL().plan_size()
    assert size.width == 3584
    assert size.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert "taken as Qwen2.5-VL-7B" in size.note
