"""The live reward: two towers, read through transformers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import AutoConfig, AutoTokenizer

from qi_core import Candidate, QiError, Scores
from qi_core.pretrained import in_one_line, no_progress_bar

if TYPE_CHECKING:
    from qi_core import Place
    from qi_plugins.reward_clip.component import ClipSimilarity

AGAIN = "get the checkpoint again"


class Towers:
    """A live ``pickscore``, ``hps`` or ``clip-similarity``."""

    def __init__(self, settings: ClipSimilarity, place: Place) -> None:
        """Reads the model. Raises QiError unless it is there and whole."""
        self.settings = settings
        self._device = place.device if settings.device == "run" else torch.device("cpu")
        self._dtype: torch.dtype = getattr(torch, settings.dtype)
        folder, other = _folder("path", settings.path), settings.processor
        self._model = read_model(folder, self._dtype).to(self._device)
        self._see, self._tokenizer = read_processors(
            folder if other is None else _folder("processor", other), self._model.config.model_type
        )
        self._longest = int(self._model.config.text_config.max_position_embeddings)
        self._one_at_a_time = threading.Lock()

    async def score(self, candidates: Sequence[Candidate]) -> Scores:
        """See ``Reward.score``."""
        return await asyncio.to_thread(self._score, tuple(candidates))

    def _score(self, candidates: Sequence[Candidate]) -> Scores:
        with self._one_at_a_time, torch.inference_mode():
            prompts = list(dict.fromkeys(candidate.prompt for candidate in candidates))
            tokens, cut = self._tokens(prompts)
            told = self._in_batches(tokens, lambda ids: self._model.get_text_features(input_ids=ids))
            shown = torch.cat([self._seen(some) for some in _batches(candidates, self.settings.batch)])
            which = torch.tensor([prompts.index(candidate.prompt) for candidate in candidates], device=self._device)
            cosines = (shown * told[which]).sum(dim=-1).tolist()
            scale = self._model.logit_scale.float().exp().item()
        return Scores(
            values=tuple(self.settings.value(cosine, scale) for cosine in cosines),
            parts={"cut": tuple(float(cut[at]) for at in which.tolist())},
        )

    def _tokens(self, prompts: Sequence[str]) -> tuple[Tensor, list[bool]]:
        """(N, L) ids, always of the same length so that other prompts don't change a prompt's arithmetic; and which
        prompts were cut."""
        whole = self._tokenizer(list(prompts), truncation=False, verbose=False)["input_ids"]
        made = self._tokenizer(
            list(prompts), padding="max_length", truncation=True, max_length=self._longest, return_tensors="pt"
        )
        return made["input_ids"], [len(ids) > self._longest for ids in whole]

    def _seen(self, candidates: Sequence[Candidate]) -> Tensor:
        """(N, width) float32, of length 1."""
        images = [Image.fromarray(candidate.image.permute(1, 2, 0).cpu().numpy()) for candidate in candidates]
        pixels = self._see(images=images, return_tensors="pt")["pixel_values"]
        features = self._model.get_image_features(pixel_values=pixels.to(self._device, self._dtype))
        return unit(features.pooler_output)

    def _in_batches(self, tokens: Tensor, tower: Any) -> Tensor:
        return torch.cat(
            [unit(tower(some.to(self._device)).pooler_output) for some in torch.split(tokens, self.settings.batch)]
        )

    async def close(self) -> None:
        """See ``Reward.close``. There is nothing to let go of."""


def unit(features: Tensor) -> Tensor:
    """In float32, and of length 1."""
    return nn.functional.normalize(features.float(), dim=-1)


def read_model(folder: Path, dtype: torch.dtype) -> Any:
    """A CLIPModel or SiglipModel, frozen. Strictly: tensors that are missing would be made up otherwise."""
    from transformers import CLIPModel, SiglipModel

    models = {"clip": CLIPModel, "siglip": SiglipModel}
    wanted = "a CLIP or SigLIP model in transformers' layout, with safetensors weights"
    with in_one_line(f"reward: {folder}", wanted, AGAIN):
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        if config.model_type not in models:
            raise ValueError(f"model_type is {config.model_type!r}")
        with no_progress_bar():
            model, found = models[config.model_type].from_pretrained(
                folder,
                config=config,
                dtype=dtype,
                local_files_only=True,
                use_safetensors=True,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
        extra = [name for name in found["unexpected_keys"] if not name.endswith("position_ids")]  # older files have it
        misshapen = [name for name, *_ in found["mismatched_keys"]]
        for what, names in (("missing", found["missing_keys"]), ("left over", extra), ("misshapen", misshapen)):
            if names:
                raise ValueError(f"{len(names)} tensors {what}, such as {min(names)}")
    return model.eval().requires_grad_(False)


def read_processors(folder: Path, model_type: str) -> tuple[Any, Any]:
    """What makes pixels of pictures and tokens of prompts. Pillow's resizing, with or without torchvision here."""
    from transformers import CLIPImageProcessorPil, SiglipImageProcessorPil

    pictures = CLIPImageProcessorPil if model_type == "clip" else SiglipImageProcessorPil
    with in_one_line(
        f"reward: {folder}",
        f"preprocessor_config.json and the tokenizer of a {model_type} model (set processor)",
        AGAIN,
    ):
        return (
            pictures.from_pretrained(folder, local_files_only=True),
            AutoTokenizer.from_pretrained(folder, local_files_only=True),
        )


def _folder(key: str, path: Path) -> Path:
    folder = path.expanduser()
    if not folder.is_dir():
        raise QiError(f"reward: {key}: there is no folder {folder}; wanted a local model; correct it or download one")
    return folder


def _batches(candidates: Sequence[Candidate], size: int) -> Iterator[Sequence[Candidate]]:
    for start in range(0, len(candidates), size):
        yield candidates[start : start + size]
