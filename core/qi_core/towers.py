"""CLIP and SigLIP, read through transformers (the extra ``qi[qwen]``): a tower for pictures and one for texts.

Shapes: N pictures or texts, W the width that both towers share, L tokens that the text tower reads.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import AutoConfig, AutoTokenizer

from qi_core.alike import Alike, lying_in
from qi_core.errors import QiError
from qi_core.place import Place
from qi_core.pretrained import in_one_line, no_progress_bar

AGAIN = "get the checkpoint again"


class Settings(Protocol):
    """Which model, and how it computes."""

    @property
    def path(self) -> Path:
        """A folder with config.json and safetensors weights in transformers' layout."""
        ...

    @property
    def processor(self) -> Path | None:
        """The folder of tokenizer and preprocessor_config.json, if not the same."""
        ...

    @property
    def batch(self) -> int:
        """Pictures at once."""
        ...

    @property
    def dtype(self) -> str: ...

    @property
    def device(self) -> str:
        """ "run": where the run computes, or "cpu"."""
        ...


class Towers:
    """A model, frozen. Several threads may ask; they are answered one at a time."""

    def __init__(self, settings: Settings, place: Place, who: str) -> None:
        """Reads the model. Raises QiError, in the name of ``who``, unless it is there and whole."""
        self._batch = settings.batch
        self.device = place.device if settings.device == "run" else torch.device("cpu")
        self._dtype: torch.dtype = getattr(torch, settings.dtype)
        folder, other = folder_of("path", settings.path, who), settings.processor
        self._model = read_model(folder, self._dtype, who).to(self.device)
        self._see, self._tokenizer = read_processors(
            folder if other is None else folder_of("processor", other, who), self._model.config.model_type, who
        )
        self._longest = int(self._model.config.text_config.max_position_embeddings)
        self._one_at_a_time = threading.Lock()

    @staticmethod
    def alike(settings: Settings, place: Place, who: str) -> Towers:
        """The same as ``Towers(...)``, or those that somebody in this process has made of the same."""
        return _ALIKE.get(alike(settings, place), lambda: Towers(settings, place, who))

    @property
    def width(self) -> int:
        """W."""
        config = self._model.config
        return int(getattr(config, "projection_dim", None) or config.vision_config.hidden_size)

    @property
    def scale(self) -> float:
        """The factor that the model has learned for its logits."""
        return float(self._model.logit_scale.float().exp().item())

    def of_pictures(self, images: Sequence[Tensor]) -> Tensor:
        """(3, H, W) uint8 each -> (N, W) float32, of length 1."""
        with self._one_at_a_time, torch.inference_mode():
            return torch.cat([self._seen(some) for some in _batches(images, self._batch)])

    def of_texts(self, texts: Sequence[str]) -> tuple[Tensor, list[bool]]:
        """(N, W) float32, of length 1; and which were cut, being longer than the model reads."""
        with self._one_at_a_time, torch.inference_mode():
            tokens, cut = self._tokens(texts)
            parts = [
                unit(self._model.get_text_features(input_ids=some.to(self.device)).pooler_output)
                for some in torch.split(tokens, self._batch)
            ]
            return torch.cat(parts), cut

    def _tokens(self, texts: Sequence[str]) -> tuple[Tensor, list[bool]]:
        """(N, L) ids, always of the same length so that other texts don't change a text's arithmetic."""
        whole = self._tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]
        made = self._tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=self._longest, return_tensors="pt"
        )
        return made["input_ids"], [len(ids) > self._longest for ids in whole]

    def _seen(self, images: Sequence[Tensor]) -> Tensor:
        pictures = [Image.fromarray(image.permute(1, 2, 0).cpu().numpy()) for image in images]
        pixels = self._see(images=pictures, return_tensors="pt")["pixel_values"]
        return unit(self._model.get_image_features(pixel_values=pixels.to(self.device, self._dtype)).pooler_output)


_ALIKE = Alike[Towers]()


def alike(settings: Settings, place: Place) -> Hashable:
    """For a key: what decides a model that is read by these settings, its files with it."""
    lies = lying_in(settings.path, settings.processor)
    return settings.path, settings.processor, lies, settings.batch, settings.dtype, settings.device, place.device


def unit(features: Tensor) -> Tensor:
    """In float32, and of length 1."""
    return nn.functional.normalize(features.float(), dim=-1)


def read_model(folder: Path, dtype: torch.dtype, who: str) -> Any:
    """A CLIPModel or SiglipModel, frozen. Strictly: tensors that are missing would be made up otherwise."""
    from transformers import CLIPModel, SiglipModel

    models = {"clip": CLIPModel, "siglip": SiglipModel}
    wanted = "a CLIP or SigLIP model in transformers' layout, with safetensors weights"
    with in_one_line(f"{who}: {folder}", wanted, AGAIN):
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        if config.model_type not in models:
            raise ValueError(f"model_type is {config.model_type!r}")
        return strictly(models[config.model_type], folder, config, dtype)


def strictly(kind: Any, folder: Path, config: Any, dtype: torch.dtype) -> Any:
    """A model of transformers from a folder, frozen. Raises ValueError unless its tensors are all those of the file."""
    with no_progress_bar():
        model, found = kind.from_pretrained(
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


def read_processors(folder: Path, model_type: str, who: str) -> tuple[Any, Any]:
    """What makes pixels of pictures and tokens of texts. Pillow's resizing, with or without torchvision here."""
    from transformers import CLIPImageProcessorPil, SiglipImageProcessorPil

    pictures = CLIPImageProcessorPil if model_type == "clip" else SiglipImageProcessorPil
    with in_one_line(
        f"{who}: {folder}",
        f"preprocessor_config.json and the tokenizer of a {model_type} model (set processor)",
        AGAIN,
    ):
        return (
            pictures.from_pretrained(folder, local_files_only=True),
            AutoTokenizer.from_pretrained(folder, local_files_only=True),
        )


def folder_of(key: str, path: Path, who: str) -> Path:
    """A folder that is there, or QiError."""
    folder = path.expanduser()
    if not folder.is_dir():
        raise QiError(f"{who}: {key}: there is no folder {folder}; wanted a local model; correct it or download one")
    return folder


def _batches(items: Sequence[Tensor], size: int) -> Iterator[Sequence[Tensor]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
