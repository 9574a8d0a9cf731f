"""The conditioner against diffusers and transformers on a tiny random checkpoint, in float32."""

from __future__ import annotations

import json
import logging
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from qi_core import Place, QiError
from qi_core.listing import Counting
from qi_plugins.cond_qwen25vl.component import Qwen25VL
from support.tiny_qwen import EDIT as EDIT_TEXT
from support.tiny_qwen import TEXT_TO_IMAGE as DRAW_TEXT
from support.tiny_qwen import WIDTH, make_text_encoder

PROMPTS = (
    "a red cat",
    "",
    " ",
    "一只红色的猫，写着“你好”",
    "café 🙂 {braces} <|im_end|> " + "the image " * 20,
    "one cat\n",
)


def place(dtype: torch.dtype = torch.float32) -> Place:
    return Place(device=torch.device("cpu"), dtype=dtype, seed=0, folder=Path())


def picture(height: int, width: int, seed: int = 0) -> torch.Tensor:
    """Smooth colours, so that resizing is seen but not noise."""
    small = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(seed))
    large = torch.nn.functional.interpolate(small[None], (height, width), mode="bilinear")[0]
    return (large * 255).to(torch.uint8)


def as_image(picture: torch.Tensor) -> Image.Image:
    return Image.fromarray(picture.permute(1, 2, 0).numpy())


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_text_encoder(tmp_path_factory.mktemp("tiny-qwen"))


@pytest.fixture(scope="module")
def conditioner(checkpoint: Path) -> Any:
    return Qwen25VL(path=checkpoint, cache_mib=0).build(place())


@pytest.fixture(scope="module")
def whole(checkpoint: Path) -> Any:
    from transformers import Qwen2_5_VLForConditionalGeneration

    return Qwen2_5_VLForConditionalGeneration.from_pretrained(checkpoint / "text_encoder").eval()


class Processor:
    """What Qwen2_5_VLProcessor does with text and pictures; the class itself needs torchvision, for its videos."""

    def __init__(self, checkpoint: Path) -> None:
        from transformers import AutoTokenizer, Qwen2VLImageProcessorPil

        self.tokenizer = AutoTokenizer.from_pretrained(checkpoint / "processor")
        self.pixels = Qwen2VLImageProcessorPil.from_pretrained(checkpoint / "processor")

    def __call__(self, *, text: list[str], images: Any, padding: bool, return_tensors: str) -> Any:
        made = self.pixels(images=images, return_tensors=return_tensors)
        for grid in made["image_grid_thw"].tolist():
            text = [one.replace("<|image_pad|>", "<|placeholder|>" * (grid[1] * grid[2] // 4), 1) for one in text]
        text = [one.replace("<|placeholder|>", "<|image_pad|>") for one in text]
        made.update(self.tokenizer(text, padding=padding, return_tensors=return_tensors))
        return made


def with_mrope(model: Any) -> Any:
    """The whole model as the released weights were trained.

    No edit pipeline of diffusers <= 0.42.1 passes ``mm_token_type_ids`` (huggingface/diffusers#14194), and without
    them transformers >= 5 uses plain positions: the reference must be given what the pipeline leaves out.
    """

    class Reference:
        dtype = model.dtype

        @torch.no_grad()
        def __call__(self, input_ids: torch.Tensor, **inputs: Any) -> Any:
            kinds = (input_ids == model.config.image_token_id).int()
            return model(input_ids=input_ids, mm_token_type_ids=kinds, **inputs)

    return Reference()


def calls_of(network: Any) -> list[int]:
    """Filled with the batch size of every pass."""
    calls: list[int] = []
    network.register_forward_pre_hook(
        lambda _module, _args, kwargs: calls.append(len(kwargs["inputs_embeds"])), with_kwargs=True
    )
    return calls


# Parity


@torch.no_grad()
def test_text_equals_the_diffusers_pipeline(checkpoint: Path, conditioner: Any, whole: Any) -> None:
    from diffusers import QwenImagePipeline
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint / "tokenizer")
    pipeline = QwenImagePipeline(scheduler=None, vae=None, text_encoder=whole, tokenizer=tokenizer, transformer=None)
    wanted, mask = pipeline.encode_prompt(list(PROMPTS), device="cpu", max_sequence_length=1024)
    made = conditioner.encode(PROMPTS)
    assert made.lengths == tuple(mask.sum(1).tolist())
    torch.testing.assert_close(made.text, wanted[mask.bool()], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("template", "sizes"),
    [("edit", [(40, 90)]), ("edit-plus", [(64, 64)]), ("edit-plus", [(40, 90), (120, 50), (30, 31)])],
)
@torch.no_grad()
def test_edit_equals_the_diffusers_pipeline_with_mrope(
    checkpoint: Path, whole: Any, template: Any, sizes: list[tuple[int, int]]
) -> None:
    from diffusers import QwenImageEditPipeline, QwenImageEditPlusPipeline
    from diffusers.pipelines.qwenimage.pipeline_qwenimage_edit import calculate_dimensions

    kind, area = {"edit": (QwenImageEditPipeline, 1024**2), "edit-plus": (QwenImageEditPlusPipeline, 384**2)}[template]
    pipeline = kind(
        scheduler=None, vae=None, text_encoder=None, tokenizer=None, processor=None, transformer=None
    )  # fmt: skip
    pictures = [picture(*size, seed=i) for i, size in enumerate(sizes)]
    resized = []
    for one in map(as_image, pictures):
        width, height, _ = calculate_dimensions(area, one.width / one.height)
        resized.append(pipeline.image_processor.resize(one, height, width))
    pipeline.text_encoder, pipeline.processor = with_mrope(whole), Processor(checkpoint)
    shown = resized if template == "edit-plus" else resized[0]
    wanted, _ = pipeline._get_qwen_prompt_embeds(["把 the color 变红"], shown, device=torch.device("cpu"))

    conditioner = Qwen25VL(path=checkpoint, edit_template=template).build(place())
    made = conditioner.encode(["把 the color 变红"], [pictures])
    assert made.lengths == (wanted.shape[1],)
    torch.testing.assert_close(made.text, wanted[0], atol=1e-5, rtol=0)


@torch.no_grad()
def test_the_positions_matter(conditioner: Any, whole: Any) -> None:
    """The comparison above could not pass with plain positions, and ours are those of transformers."""
    from qi_plugins.cond_qwen25vl.vision import positions

    image = whole.config.image_token_id
    grids = ((1, 2, 3), (1, 4, 1))
    ids = torch.tensor([[5, 6, *[image] * 6, 7, *[image] * 4, 8, 9]])
    patches = torch.tensor([[t, 2 * rows, 2 * columns] for t, rows, columns in grids])
    wanted, _ = whole.model.get_rope_index(ids, mm_token_type_ids=(ids == image).int(), image_grid_thw=patches)
    own = positions((ids[0] == image).tolist(), grids)
    assert torch.equal(own, wanted[:, 0])
    embeds = whole.model.language_model.embed_tokens(ids)
    right, plain = (
        whole.model.language_model(inputs_embeds=embeds, position_ids=p).last_hidden_state for p in (wanted, None)
    )
    assert (right - plain).abs().max() > 0.1


def test_a_batch_equals_its_samples_one_by_one(checkpoint: Path) -> None:
    prompts = ["the image", "a red cat " * 9, "", "the same size", "<|image_pad|> as text", "a"]
    references = [[], [picture(40, 90)], [picture(64, 64), picture(99, 40)], [], [], [picture(30, 30)]]
    together = Qwen25VL(path=checkpoint, batch=4).build(place()).encode(prompts, references)
    alone = Qwen25VL(path=checkpoint, batch=1).build(place())
    singles = [alone.encode([p], [r]) for p, r in zip(prompts, references, strict=True)]
    assert together.lengths == tuple(single.lengths[0] for single in singles)
    apart = torch.cat([s.text for s in singles])
    assert (together.text - apart).abs().max() <= 1e-6 * apart.abs().max(), "but for the rounding of float32"


def test_bfloat16_is_near_float32(checkpoint: Path, conditioner: Any) -> None:
    made = Qwen25VL(path=checkpoint).build(place(torch.bfloat16)).encode(["the image"], [[picture(64, 64)]])
    wanted = conditioner.encode(["the image"], [[picture(64, 64)]])
    assert made.text.dtype == torch.bfloat16
    assert (made.text.float() - wanted.text).norm() < 0.05 * wanted.text.norm()


def test_autocast_around_it_changes_nothing(conditioner: Any) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = conditioner.encode(["a red cat"])
    assert torch.equal(inside.text, conditioner.encode(["a red cat"]).text)


# What is given


def test_the_prefix_is_dropped_and_nothing_is_padded(conditioner: Any) -> None:
    from support.tiny_qwen import make_tokenizer

    tokenizer = make_tokenizer()
    made = conditioner.encode(["", "the image"], [[], [picture(64, 64)]])
    text, edit = (len(tokenizer(template.split("{}")[0])["input_ids"]) for template in (DRAW_TEXT, EDIT_TEXT))
    assert (text, edit) == (34, 64)
    end = 5  # <|im_end|> \n <|im_start|> assistant \n
    shown = len(tokenizer("Picture 1: <|vision_start|><|vision_end|>the image")["input_ids"]) + (384 // 28 + 1) ** 2
    assert made.lengths == (end, shown + end)
    assert made.text.shape == (sum(made.lengths), WIDTH)
    assert made.references is None
    assert conditioner.width == WIDTH


def test_no_prompts_give_no_tokens(conditioner: Any) -> None:
    made = conditioner.encode([])
    assert made.lengths == ()
    assert made.text.shape == (0, WIDTH)


def test_references_are_shown_at_the_released_sizes() -> None:
    from qi_plugins.cond_qwen25vl.templates import EDIT, EDIT_PLUS

    assert EDIT_PLUS.size(500, 500) == (384, 384)
    assert EDIT_PLUS.size(1920, 1080) == (512, 288)
    assert EDIT.size(1080, 1920) == (768, 1376)
    with pytest.raises(QiError, match="9000x10 pixels: one side is more than 200 times the other"):
        EDIT.size(9000, 10)


def test_a_long_prompt_is_cut_as_the_pipeline_does_and_told(checkpoint: Path, caplog: pytest.LogCaptureFixture) -> None:
    long = "the color of the image " * 4
    conditioner = Qwen25VL(path=checkpoint, max_length=12).build(place())
    whole_text = Qwen25VL(path=checkpoint).build(place()).encode([long])
    with caplog.at_level(logging.WARNING, logger="qi.conditioner"):
        cut = conditioner.encode([long, "a"])
    assert cut.lengths[0] == 12 < whole_text.lengths[0]
    torch.testing.assert_close(cut.text[:12], whole_text.text[:12], atol=1e-5, rtol=0)
    assert conditioner.truncated == 1
    assert f"{whole_text.lengths[0]} tokens; at most 12 were wanted; its end was cut" in caplog.text
    edit = conditioner.encode([long], [[picture(64, 64)]])
    assert edit.lengths[0] > 196 + 20  # nothing of an instruction is ever cut
    with pytest.raises(QiError, match=r"at most 12 were wanted; shorten it, raise conditioner\.max_length"):
        Qwen25VL(path=checkpoint, max_length=12, too_long="refuse").build(place()).encode([long])


# What is not computed


def test_prompts_are_counted_as_they_are_encoded_and_without_weights(checkpoint: Path, conditioner: Any) -> None:
    prompts = ["a cat", "", "two cats and a dog on a mat"]
    lengths = conditioner.encode(prompts).lengths
    settings = Qwen25VL(tokenizer=checkpoint / "tokenizer")  # no text encoder
    assert isinstance(settings, Counting)
    assert settings.prompt_tokens(prompts) == list(lengths)
    assert settings.prompt_tokens([]) == []


def test_there_is_no_head_and_the_vision_tower_waits_for_a_picture(checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoint, tmp_path / "blind")
    weights = tmp_path / "blind" / "text_encoder" / "model.safetensors"
    tensors = load_file(weights)
    save_file({k: v for k, v in tensors.items() if k.startswith("model.")}, weights, metadata={"format": "pt"})
    blind = Qwen25VL(path=tmp_path / "blind").build(place())
    whole = Qwen25VL(path=checkpoint).build(place())
    assert torch.equal(blind.encode(["a cat"]).text, whole.encode(["a cat"]).text)
    assert not [name for name, _ in whole._language.named_modules() if "head" in name or "visual" in name]
    assert whole._eyes is None
    whole.encode(["a cat"], [[picture(64, 64)]])
    assert whole._eyes is not None
    with pytest.raises(QiError, match="30 missing, such as blocks"):
        blind.encode(["a cat"], [[picture(64, 64)]])


def test_what_is_known_is_not_computed_again(checkpoint: Path) -> None:
    conditioner = Qwen25VL(path=checkpoint, batch=8).build(place())
    calls = calls_of(conditioner._language)
    first = conditioner.encode(["a", "b", "a", " ", " "])
    assert calls == [3]
    again = conditioner.encode([" ", "a"])
    assert calls == [3]
    parts = first.split()
    assert torch.equal(again.text, torch.cat([parts[3].text, parts[0].text]))
    again.text.zero_()
    assert torch.equal(conditioner.encode(["a"]).text, parts[0].text)  # a caller cannot spoil what is kept


def test_pictures_belong_to_the_key(checkpoint: Path) -> None:
    conditioner = Qwen25VL(path=checkpoint).build(place())
    calls = calls_of(conditioner._language)
    one, other = picture(64, 64, seed=1), picture(64, 64, seed=2)
    first = conditioner.encode(["a"], [[one]])
    assert not torch.equal(first.text, conditioner.encode(["a"], [[other]]).text)
    conditioner.encode(["a"])
    assert len(calls) == 3
    assert torch.equal(conditioner.encode(["a"], [[one.clone()]]).text, first.text)
    assert len(calls) == 3


def test_the_cache_is_bounded_and_forgets_the_oldest() -> None:
    from qi_plugins.cond_qwen25vl.cache import Cache

    cache = Cache(limit=3 * 40)
    entry = torch.ones(5, 2)
    for key in (b"a", b"b", b"c"):
        cache.put(key, entry)
    cache.get(b"a")
    cache.put(b"d", entry)
    assert [cache.get(key) is not None for key in (b"a", b"b", b"c", b"d")] == [True, False, True, True]
    cache.put(b"huge", torch.ones(100, 2))
    assert len(cache) == 3
    cache.put(b"slice", torch.ones(1000, 2)[:5])
    kept = cache.get(b"slice")
    assert kept is not None
    assert kept.untyped_storage().nbytes() == 40  # not the batch that it was cut from


# Bad input


def test_float16_is_refused(checkpoint: Path) -> None:
    with pytest.raises(QiError, match=r"compute in float16; .* leave float16's range"):
        Qwen25VL(path=checkpoint).build(place(torch.float16))


def test_an_import_looks_at_the_files(checkpoint: Path, tmp_path: Path) -> None:
    source = shutil.copytree(checkpoint, tmp_path / "half")
    file = source / "text_encoder" / "model.safetensors"
    tensors = load_file(file)
    save_file(tensors | {"model.norm.weight": tensors["model.norm.weight"].half()}, file, {"format": "pt"})
    with pytest.raises(QiError, match=r"norm.weight is float16; .* NaN or black pictures"):
        Qwen25VL().at(source)
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(QiError, match=r"model\.safetensors: no readable safetensors file"):
        Qwen25VL().at(source)
    file.unlink()
    with pytest.raises(QiError, match="no safetensors files"):
        Qwen25VL().at(source)


def test_missing_folders_are_told(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(QiError, match="neither path nor text_encoder is set"):
        Qwen25VL().build(place())
    with pytest.raises(QiError, match=r"conditioner\.path: there is no folder .*nowhere/text_encoder"):
        Qwen25VL(path=tmp_path / "nowhere").build(place())
    (tmp_path / "empty").mkdir()
    with pytest.raises(QiError, match=r"empty: .*; wanted the config\.json of a Qwen2\.5-VL model"):
        Qwen25VL(path=checkpoint, text_encoder=tmp_path / "empty").build(place())
    with pytest.raises(QiError, match=r"empty: .*; wanted the tokenizer of Qwen2\.5-VL"):
        Qwen25VL(path=checkpoint, tokenizer=tmp_path / "empty").build(place())
    with pytest.raises(QiError, match=r"empty: no usable preprocessor_config\.json"):
        Qwen25VL(path=checkpoint, processor=tmp_path / "empty").build(place()).encode(["a"], [[picture(64, 64)]])


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda t: t.pop("model.norm.weight"), "1 missing, such as norm.weight"),
        (lambda t: t.update({"model.layers.7.x": torch.ones(1)}), "1 left over, such as layers.7.x"),
        (
            lambda t: t.update({"model.norm.weight": torch.ones(3)}),
            r"1 misshapen, such as norm.weight \(file \(3,\), config \(64,\)\)",
        ),
    ],
)
def test_wrong_weights_are_told_by_name(checkpoint: Path, tmp_path: Path, spoil: Any, told: str) -> None:
    shutil.copytree(checkpoint / "text_encoder", tmp_path / "text_encoder")
    tensors = load_file(tmp_path / "text_encoder" / "model.safetensors")
    spoil(tensors)
    save_file(tensors, tmp_path / "text_encoder" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(QiError, match=told):
        Qwen25VL(path=checkpoint, text_encoder=tmp_path / "text_encoder").build(place())


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ("{", "is not a valid JSON file"),
        ('{"model_type": "t5"}', "model_type is 't5'; 'qwen2_5_vl' was wanted"),
        ('{"model_type": "qwen2_5_vl", "vision_config": 3}', "Validation error for field 'vision_config'"),
    ],
)
def test_a_wrong_config_is_told(checkpoint: Path, tmp_path: Path, config: str, told: str) -> None:
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(QiError, match=told):
        Qwen25VL(path=checkpoint, text_encoder=tmp_path).build(place())


def test_damaged_weights_are_told(checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoint / "text_encoder", tmp_path / "text_encoder")
    weights = tmp_path / "text_encoder" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(QiError, match=r"text_encoder: .*; wanted the safetensors weights of Qwen2\.5-VL"):
        Qwen25VL(path=checkpoint, text_encoder=weights.parent).build(place())


def test_another_tokenizer_is_told(checkpoint: Path, tmp_path: Path) -> None:
    from transformers import Qwen2Tokenizer

    Qwen2Tokenizer(vocab={"<|endoftext|>": 0, "a": 1}, merges=[]).save_pretrained(tmp_path)
    with pytest.raises(QiError, match="tokens of the prefix of the template 'text-to-image'; 34 were wanted"):
        Qwen25VL(path=checkpoint, tokenizer=tmp_path).build(place())


@pytest.mark.parametrize(
    ("prompts", "references", "told"),
    [
        (["a", "b"], [[]], "2 prompts with 1 lists"),
        (["a"], [[torch.zeros(3, 8, 8)]], r"\(3, 8, 8\) torch.float32; \(3, H, W\) uint8 was wanted"),
        (["a <|image_pad|>"], [[picture(64, 64)]], "holds the token"),
        (["b\ud800"], [], "character 2 is half of a surrogate pair"),
    ],
)
def test_bad_samples_are_told(conditioner: Any, prompts: Any, references: Any, told: str) -> None:
    with pytest.raises(QiError, match=told):
        conditioner.encode(prompts, references)


def test_the_edit_template_takes_one_picture(checkpoint: Path) -> None:
    conditioner = Qwen25VL(path=checkpoint, edit_template="edit").build(place())
    with pytest.raises(QiError, match="2 reference pictures: the template 'edit' shows one"):
        conditioner.encode(["a"], [[picture(64, 64)] * 2])


def test_a_missing_package_is_told(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(QiError, match=r"transformers is not installed; .* pip install qi\[qwen\]"):
        Qwen25VL(path=checkpoint).build(place())


def test_reading_the_component_imports_no_torch() -> None:
    import subprocess

    code = (
        "import sys; from qi_plugins.cond_qwen25vl import qi_conditioners; "
        "assert list(qi_conditioners()) == ['qwen2.5-vl']; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_config_as_transformers_4_wrote_it_is_the_same_model(
    checkpoint: Path, conditioner: Any, tmp_path: Path
) -> None:
    """The released config.json is flat and says rope_scaling where transformers 5 says rope_parameters."""
    shutil.copytree(checkpoint / "text_encoder", tmp_path / "text_encoder")
    file = tmp_path / "text_encoder" / "config.json"
    config = json.loads(file.read_text())
    text = config.pop("text_config")
    del text["model_type"], text["layer_types"], text["rope_parameters"]
    vision = {**config["vision_config"], "model_type": "qwen2_5_vl", "in_chans": 3, "spatial_patch_size": 14}
    vision.pop("rope_parameters", None)
    rope = {"rope_theta": 1e6, "rope_scaling": {"mrope_section": [2, 3, 3], "rope_type": "default", "type": "default"}}
    file.write_text(json.dumps({**config, **text, **rope, "vision_config": vision, "transformers_version": "4.53.1"}))
    old = Qwen25VL(path=checkpoint, text_encoder=file.parent).build(place())
    sample = (["the image"], [[picture(64, 64)]])
    assert torch.equal(old.encode(*sample).text, conditioner.encode(*sample).text)
