"""Rewards by CLIP models, read from tiny checkpoints as transformers writes them."""

from __future__ import annotations

import asyncio
import string
from pathlib import Path
from typing import Any

import pytest
import torch
from attrs import evolve
from PIL import Image
from torch import Tensor

from qi_core import Candidate, Place, QiError, Scores
from qi_core.testing import check_component, check_reward
from qi_plugins.reward_clip.component import ClipSimilarity, Hps, PickScore

START, END = "<|startoftext|>", "<|endoftext|>"
LONGEST = 24
"""Tokens that the tiny text tower reads."""


def write_clip(folder: Path, seed: int = 0) -> Path:
    """CLIP of one layer and 32 pixels a side; its tokenizer spells words letter by letter."""
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

    letters = string.ascii_lowercase + string.digits
    pieces = [*letters, *(letter + "</w>" for letter in letters), START, END]
    tokenizer = CLIPTokenizer(vocab={piece: number for number, piece in enumerate(pieces)}, merges=[])
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    ids = {"bos_token_id": pieces.index(START), "eos_token_id": pieces.index(END), "pad_token_id": pieces.index(END)}
    config = CLIPConfig(
        text_config={**small, **ids, "vocab_size": len(pieces), "max_position_embeddings": LONGEST},
        vision_config={**small, "image_size": 32, "patch_size": 8},
        projection_dim=12,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = CLIPModel(config)
        for name, weight in model.named_parameters():  # the usual start is so small that all prompts would be alike
            if weight.ndim > 1:
                torch.nn.init.normal_(weight, std=0.5 if "embedding" in name else 0.3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(device=torch.device("cpu"), dtype=torch.float32, seed=5, folder=tmp_path)


def pictures(count: int = 5) -> list[Candidate]:
    """Noise of several sizes, two to a prompt."""
    dice = torch.Generator().manual_seed(3)
    prompts = ("a red cat", "two dogs in the rain", "a house")
    sizes = ((32, 32), (48, 40), (24, 64), (40, 40), (64, 32))
    return [
        Candidate(
            key=str(number),
            group=str(number // 2),
            prompt=prompts[number // 2],
            image=torch.randint(0, 256, (3, *sizes[number]), generator=dice, dtype=torch.uint8),
        )
        for number in range(count)
    ]


def judged(component: ClipSimilarity, place: Place, candidates: list[Candidate]) -> Scores:
    return asyncio.run(component.build(place).score(candidates))


def direct(folder: Path, candidates: list[Candidate]) -> tuple[Tensor, Tensor]:
    """What transformers itself computes, one pair at a time: logits and the factor in them."""
    from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel

    model = CLIPModel.from_pretrained(folder).eval()
    see, tokenizer = CLIPImageProcessorPil.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    found = []
    for candidate in candidates:
        image = Image.fromarray(candidate.image.permute(1, 2, 0).numpy())
        made: dict[str, Any] = {**tokenizer([candidate.prompt], return_tensors="pt")}
        with torch.no_grad():
            out = model(pixel_values=see(images=[image], return_tensors="pt")["pixel_values"], **made)
        found.append(out.logits_per_image[0, 0])
    return torch.stack(found), model.logit_scale.detach().exp()


def test_they_are_components_that_keep_the_contract(clip: Path) -> None:
    for component in (ClipSimilarity, PickScore, Hps):
        check_component(component)
        check_reward(component(path=clip), candidates=pictures(), tolerance=1e-5)


def test_scores_are_those_of_transformers(clip: Path, place: Place) -> None:
    candidates = pictures()
    logits, scale = direct(clip, candidates)
    assert logits.std() > 0.5, "a model that says the same of everything would prove nothing"
    for component, wanted in (
        (PickScore(path=clip), logits / 26),
        (PickScore(path=clip, divide=1.0, batch=2), logits),
        (Hps(path=clip), logits / scale),
        (ClipSimilarity(path=clip), logits / scale),
    ):
        assert judged(component, place, candidates).values == pytest.approx(wanted.tolist(), abs=2e-5)
    rough = judged(Hps(path=clip, dtype="bfloat16"), place, candidates).values
    assert rough == pytest.approx((logits / scale).tolist(), abs=0.05)


def test_the_prompt_counts_and_one_that_is_cut_is_told(clip: Path, place: Place) -> None:
    one = pictures(1)[0]
    long = evolve(one, prompt="a red cat " + "and a dog " * 9)
    longer = evolve(one, prompt=long.prompt + "on a hill")
    found = judged(Hps(path=clip), place, [one, evolve(one, prompt="a green dog"), long, longer])
    assert len(set(found.values)) == 3
    assert found.values[2] == found.values[3], "what stands beyond the last token read cannot count"
    assert found.parts["cut"] == (0.0, 0.0, 1.0, 1.0)


def test_tokenizer_and_processor_may_lie_elsewhere(clip: Path, place: Place, tmp_path: Path) -> None:
    weights, rest = tmp_path / "weights", tmp_path / "rest"
    weights.mkdir()
    rest.mkdir()
    for file in clip.iterdir():
        to = weights if file.name in ("config.json", "model.safetensors") else rest
        (to / file.name).write_bytes(file.read_bytes())
    assert judged(Hps(path=weights, processor=rest), place, pictures()) == judged(Hps(path=clip), place, pictures())
    with pytest.raises(QiError, match=r"wanted preprocessor_config.json and the tokenizer"):
        Hps(path=weights).build(place)


def test_what_is_no_such_model_is_refused_in_one_line(clip: Path, place: Place, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    with pytest.raises(QiError, match=r"path: there is no folder"):
        Hps(path=tmp_path / "nowhere").build(place)
    with pytest.raises(QiError, match=r"wanted a CLIP or SigLIP model"):
        Hps(path=tmp_path).build(place)
    for file in clip.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(clip / "model.safetensors")
    for change, told in (
        (
            {k: v for k, v in weights.items() if k != "visual_projection.weight"},
            "1 tensors missing, such as visual_pro",
        ),
        ({**weights, "more": torch.zeros(1)}, "1 tensors left over, such as more"),
        ({**weights, "visual_projection.weight": torch.zeros(2, 2)}, "1 tensors misshapen, such as visual_projection"),
    ):
        save_file(change, tmp_path / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(QiError, match=told):
            Hps(path=tmp_path).build(place)


def test_a_pickle_of_weights_is_not_read(clip: Path, place: Place, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    for file in clip.iterdir():
        if file.name != "model.safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    torch.save(load_file(clip / "model.safetensors"), tmp_path / "pytorch_model.bin")
    with pytest.raises(QiError, match="safetensors"):
        Hps(path=tmp_path).build(place)


def test_siglip_is_read_the_same_way(place: Place, tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, SiglipConfig, SiglipImageProcessorPil, SiglipModel

    known = ("<pad>", "</s>", "<unk>", "a", "red", "cat", "two", "dogs", "in", "the", "rain", "house")
    words = {word: number for number, word in enumerate(known)}
    spelled = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    spelled.pre_tokenizer = pre_tokenizers.Whitespace()
    spelled.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=spelled, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(tmp_path)
    SiglipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = SiglipModel(
            SiglipConfig(
                text_config={**small, "vocab_size": len(words), "max_position_embeddings": 8, "projection_size": 16},
                vision_config={**small, "image_size": 32, "patch_size": 8},
            )
        ).eval()
    model.save_pretrained(tmp_path)
    candidates = pictures(2)
    image = SiglipImageProcessorPil.from_pretrained(tmp_path)(
        images=[Image.fromarray(c.image.permute(1, 2, 0).numpy()) for c in candidates], return_tensors="pt"
    )["pixel_values"]
    ids = torch.tensor([[words[word] for word in ("a", "red", "cat")] + [1, 0, 0, 0, 0]])
    with torch.no_grad():
        out = model(pixel_values=image, input_ids=ids)
    wanted = (out.image_embeds @ out.text_embeds.T)[:, 0].tolist()
    assert judged(ClipSimilarity(path=tmp_path), place, candidates).values == pytest.approx(wanted, abs=1e-5)
