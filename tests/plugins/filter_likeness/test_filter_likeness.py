"""Filters by models, read from tiny checkpoints as transformers writes them, held against transformers itself."""

from __future__ import annotations

import math
import string
from pathlib import Path
from typing import Any

import pytest
import torch
from attrs import evolve
from PIL import Image
from safetensors.torch import save_file

from qi_core import Place, QiError, Sample
from qi_core.testing import check_component, check_filter
from qi_core.testing.filter import some_samples
from qi_plugins.filter_likeness.colours import NamedColours, colours_in
from qi_plugins.filter_likeness.component import Aesthetic, ImageText, Nsfw

PLACE = Place(device=torch.device("cpu"), dtype=torch.float32, seed=5, folder=Path())
SAMPLES = [evolve(sample, prompt="a red cat" if not sample.prompt else sample.prompt) for sample in some_samples(3)]
SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


def loud(model: Any) -> Any:
    """The usual start is so small that everything would be alike."""
    for name, weight in model.named_parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.5 if "embedding" in name else 0.3)
    return model.eval()


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

    folder = tmp_path_factory.mktemp("clip")
    letters = string.ascii_lowercase
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    ids = {"bos_token_id": len(pieces) - 2, "eos_token_id": len(pieces) - 1, "pad_token_id": len(pieces) - 1}
    config = CLIPConfig(
        text_config={**SMALL, **ids, "vocab_size": len(pieces), "max_position_embeddings": 24},
        vision_config={**SMALL, "image_size": 32, "patch_size": 8},
        projection_dim=12,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        loud(CLIPModel(config)).save_pretrained(folder)
    CLIPTokenizer(vocab={piece: n for n, piece in enumerate(pieces)}, merges=[]).save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

    folder = tmp_path_factory.mktemp("vit")
    labels = {0: "normal", 1: "nsfw", 2: "gore"}
    config = ViTConfig(
        **SMALL, image_size=32, patch_size=8, id2label=labels, label2id={v: k for k, v in labels.items()}
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        loud(ViTForImageClassification(config)).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def pictures(samples: list[Sample]) -> list[Image.Image]:
    return [Image.fromarray(sample.image.permute(1, 2, 0).numpy()) for sample in samples]


def embedded(clip: Path, samples: list[Sample]) -> torch.Tensor:
    from transformers import CLIPImageProcessorPil, CLIPModel

    pixels = CLIPImageProcessorPil.from_pretrained(clip)(images=pictures(samples), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        features = CLIPModel.from_pretrained(clip).get_image_features(pixel_values=pixels).pooler_output
    return torch.nn.functional.normalize(features, dim=-1)


def test_similarity_is_the_cosine_of_transformers(clip: Path) -> None:
    from transformers import AutoTokenizer, CLIPModel

    live = ImageText(path=clip, least=0.9).build(PLACE)
    tokenizer, model = AutoTokenizer.from_pretrained(clip), CLIPModel.from_pretrained(clip)
    for sample, seen in zip(SAMPLES, embedded(clip, SAMPLES), strict=True):
        tokens = tokenizer([sample.prompt], truncation=True, max_length=24, return_tensors="pt")
        with torch.no_grad():
            told = model.get_text_features(**tokens).pooler_output[0]
        wanted = float(torch.nn.functional.cosine_similarity(told, seen, dim=0))
        assert live.measure(sample) == pytest.approx(wanted, abs=2e-5)
    assert math.isnan(live.measure(evolve(SAMPLES[0], prompt=" ")))
    assert live.refuses(0.5) == "caption does not match"
    check_component(ImageText)
    check_filter(ImageText(path=clip), samples=SAMPLES)


def test_beauty_is_the_head_s_number_of_the_embedding(clip: Path, tmp_path: Path) -> None:
    dice = torch.Generator().manual_seed(1)
    one, two = torch.randn(5, 12, generator=dice), torch.randn(1, 5, generator=dice)
    biases = torch.randn(6, generator=dice)
    head = {"layers.0.weight": one, "layers.0.bias": biases[:5], "layers.10.weight": two, "layers.10.bias": biases[5:]}
    save_file(head, tmp_path / "mlp.safetensors")
    save_file({"weight": one[:1].clone(), "bias": biases[:1].clone()}, tmp_path / "linear.safetensors")
    seen = embedded(clip, SAMPLES)
    for name, wanted in (
        ("mlp", (seen @ one.T + biases[:5]) @ two.T + biases[5:]),
        ("linear", seen @ one[:1].T + biases[:1]),
    ):
        component = Aesthetic(path=clip, head=tmp_path / f"{name}.safetensors")
        live = component.build(PLACE)
        assert [live.measure(sample) for sample in SAMPLES] == pytest.approx(wanted[:, 0].tolist(), abs=2e-5)
    check_component(Aesthetic)
    check_filter(component, samples=SAMPLES)
    save_file({"weight": two, "bias": biases[:1].clone()}, tmp_path / "other.safetensors")
    with pytest.raises(QiError, match=r"other.safetensors: its layers take \[5\] and give \[1\]; wanted linear layers"):
        Aesthetic(path=clip, head=tmp_path / "other.safetensors").build(PLACE)
    with pytest.raises(QiError, match="wanted linear layers"):
        Aesthetic(path=clip, head=tmp_path / "nowhere.safetensors").build(PLACE)


def test_what_should_not_be_shown_is_the_classes_probability(classifier: Path) -> None:
    from transformers import ViTForImageClassification, ViTImageProcessorPil

    pixels = ViTImageProcessorPil.from_pretrained(classifier)(images=pictures(SAMPLES), return_tensors="pt")
    with torch.no_grad():
        shares = ViTForImageClassification.from_pretrained(classifier)(**pixels).logits.softmax(dim=-1)
    for labels, wanted in ((("nsfw",), shares[:, 1]), (("nsfw", "gore"), shares[:, 1] + shares[:, 2])):
        live = Nsfw(path=classifier, labels=labels).build(PLACE)
        assert [live.measure(sample) for sample in SAMPLES] == pytest.approx(wanted.tolist(), abs=1e-5)
    check_component(Nsfw)
    check_filter(Nsfw(path=classifier), samples=SAMPLES)
    with pytest.raises(QiError, match=r"'lewd' is no class of .*; wanted of normal, nsfw, gore"):
        Nsfw(path=classifier, labels=("lewd",)).build(PLACE)


def test_another_threshold_reads_no_model_again(clip: Path, classifier: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when it glides from one to another while a run goes on."""
    before = [ImageText(path=clip, least=0.1).build(PLACE), Nsfw(path=classifier, most=0.9).build(PLACE)]
    monkeypatch.setattr("qi_core.towers.read_model", None)
    monkeypatch.setattr("qi_plugins.filter_likeness.live.strictly", None)
    after = [ImageText(path=clip, least=0.2).build(PLACE), Nsfw(path=classifier, most=0.8).build(PLACE)]
    sample = SAMPLES[0]
    assert [each.measure(sample) for each in before] == [each.measure(sample) for each in after]


def test_models_that_are_not_there(tmp_path: Path, classifier: Path) -> None:
    with pytest.raises(QiError, match="filter image-text: path: there is no folder"):
        ImageText(path=tmp_path / "nowhere").build(PLACE)
    with pytest.raises(QiError, match=r"filter nsfw: .*wanted an image classifier"):
        Nsfw(path=tmp_path).build(PLACE)
    with pytest.raises(QiError, match=r"filter image-text: .*wanted a CLIP or SigLIP model"):
        ImageText(path=classifier).build(PLACE)


def test_the_stand_in_knows_colours_and_nothing_else() -> None:
    assert colours_in('a red cat on gray ground, with the word "BLUE"') == {"red", "grey"}
    assert colours_in("蓝色的猫，上写“红”") == {"blue"}
    assert colours_in("a tired bore") == set()
    image = torch.zeros(3, 32, 32, dtype=torch.uint8)
    image[0, :, 16:] = 220
    live = NamedColours().build(PLACE)
    found = [live.measure(Sample(key="", prompt=text, image=image)) for text in ("a red cat", "red on blue", "a cat")]
    assert found[:2] == [1.0, 0.5]
    assert math.isnan(found[2])
    assert live.refuses(0.4) == "named colours are not there"
    check_component(NamedColours)
    check_filter(NamedColours(), samples=SAMPLES)
