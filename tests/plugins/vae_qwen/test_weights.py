"""Names and shapes of the files: read strictly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from attrs import evolve
from diffusers import AutoencoderKLQwenImage
from safetensors.torch import load_file, save_file
from torch import Tensor

from qi_core import Place, QiError
from qi_plugins.vae_qwen.component import VaeQwen
from qi_plugins.vae_qwen.config import VaeConfig
from qi_plugins.vae_qwen.network import VaeNetwork
from qi_plugins.vae_qwen.weights import WEIGHTS, file_shapes

Edit = Callable[[dict[str, Tensor]], object]


@pytest.mark.parametrize(("channels", "total"), [(3, 126_892_531), (4, 126_897_716)])
def test_the_released_geometry_has_the_released_names_shapes_and_counts(channels: int, total: int) -> None:
    with torch.device("meta"):
        ours, theirs = VaeNetwork(VaeConfig(input_channels=channels)), AutoencoderKLQwenImage(input_channels=channels)
    assert file_shapes(ours) == {name: tuple(value.shape) for name, value in theirs.state_dict().items()}
    assert sum(torch.Size(shape).numel() for shape in file_shapes(ours).values()) == total


def test_a_picture_only_runs_19_and_25_million_parameters() -> None:
    """Qwen-Image report, section 2.2: "19M encoder and 25M decoder parameters" on images."""
    with torch.device("meta"):
        network = VaeNetwork(VaeConfig())
    assert sum(parameter.numel() for parameter in network.encoder.parameters()) == 19_306_592
    assert sum(parameter.numel() for parameter in network.decoder.parameters()) == 25_291_683


def test_weights_lie_where_and_as_the_place_says(folder: Callable[..., Path], place: Place) -> None:
    network = VaeQwen(path=folder()).build(evolve(place, dtype=torch.bfloat16)).network
    assert all(p.dtype == torch.bfloat16 and not p.requires_grad for p in network.parameters())
    assert not network.training
    assert network.encoder.conv_in.weight.is_contiguous(memory_format=torch.channels_last)


def test_bfloat16_is_as_near_to_float32_as_diffusers_is(make: Any, place: Place, tmp_path: Path) -> None:
    oracle, _ = make()
    path = tmp_path / "checkpoint" / "vae"
    image = torch.rand(3, 48, 80) * 2 - 1
    rough = VaeQwen(path=path).build(evolve(place, dtype=torch.bfloat16))
    theirs = AutoencoderKLQwenImage.from_pretrained(path, torch_dtype=torch.bfloat16).eval()
    expected = oracle.model.encode(image[None, :, None]).latent_dist.mode()[0, :, 0]
    rough_z = rough.network.encode(image[None].bfloat16())[0].float()
    their_z = theirs.encode(image[None, :, None].bfloat16()).latent_dist.mode()[0, :, 0].float()
    assert (rough_z - expected).norm() <= 1.5 * (their_z - expected).norm()


def spoilt(source: Path, edit: Edit) -> Path:
    tensors = load_file(source / WEIGHTS)
    edit(tensors)
    save_file(tensors, source / WEIGHTS)
    return source


NAME = "decoder.up_blocks.0.upsamplers.0.time_conv.weight"


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (lambda t: t.pop("encoder.conv_in.bias"), "missing: encoder.conv_in.bias"),
        (lambda t: t.pop(NAME), f"missing: {NAME}"),
        (lambda t: t.update(stray=torch.zeros(1)), "extra: stray"),
        (
            lambda t: t.update({NAME: torch.zeros(3, 2)}),
            rf"misshapen: {NAME} is \(3, 2\), wanted \(64, 32, 3, 1, 1\)",
        ),
        (lambda t: t.update({NAME: t[NAME].half()}), f"{NAME} is float16; .*NaN or black"),
        (lambda t: t.update({NAME: t[NAME].long()}), f"{NAME} is torch.int64; want bfloat16 or float32"),
    ],
    ids=["missing", "missing, never used by pictures", "extra", "misshapen", "float16", "integers"],
)
def test_a_wrong_tensor_is_told_by_name(folder: Callable[..., Path], place: Place, edit: Edit, told: str) -> None:
    source = spoilt(folder(), edit)
    for attempt in (lambda: VaeQwen(path=source).build(place), lambda: VaeQwen(path=source).at(source.parent)):
        with pytest.raises(QiError, match=told) as caught:
            attempt()
        assert str(source / WEIGHTS) in str(caught.value)


def test_all_that_is_wrong_is_told_at_once(folder: Callable[..., Path], place: Place) -> None:
    def edit(tensors: dict[str, Tensor]) -> None:
        for name in [name for name in tensors if name.startswith("encoder.")]:
            tensors[f"model.{name}"] = tensors.pop(name)

    with pytest.raises(QiError, match=r"missing: encoder\..* and \d+ more; extra: model\.encoder\..* more"):
        VaeQwen(path=spoilt(folder(), edit)).build(place)


def test_a_damaged_or_absent_file_is_told(folder: Callable[..., Path], place: Place) -> None:
    source = folder()
    (source / WEIGHTS).write_bytes((source / WEIGHTS).read_bytes()[:5000])
    with pytest.raises(QiError, match="no readable safetensors file"):
        VaeQwen(path=source).build(place)
    (source / WEIGHTS).unlink()
    with pytest.raises(QiError, match=f"{WEIGHTS}: no readable safetensors file .No such file"):
        VaeQwen(path=source).build(place)
