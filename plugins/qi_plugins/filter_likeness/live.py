"""How ``image-text``, ``aesthetic`` and ``nsfw`` measure.

Shapes: W the width of a picture's embedding.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor, nn

from qi_core import QiError
from qi_core.alike import Alike
from qi_core.bar import NOTHING
from qi_core.pretrained import in_one_line
from qi_core.towers import AGAIN, Towers, alike, folder_of, strictly

if TYPE_CHECKING:
    from qi_core import Place, Sample
    from qi_plugins.filter_likeness.component import Aesthetic, ImageText, Nsfw


def cosine(settings: ImageText, place: Place) -> Callable[[Sample], float]:
    """Of picture and caption."""
    towers = Towers.alike(settings, place, "filter image-text")

    def measured(sample: Sample) -> float:
        if not sample.prompt.strip():
            return NOTHING
        told, _ = towers.of_texts([sample.prompt])
        return float((told * towers.of_pictures([sample.image])).sum())

    return measured


def beauty(settings: Aesthetic, place: Place) -> Callable[[Sample], float]:
    """The head's number of the picture's embedding."""
    towers = Towers.alike(settings, place, "filter aesthetic")
    head = read_head(settings.head.expanduser(), towers.width).to(towers.device)

    def measured(sample: Sample) -> float:
        with torch.inference_mode():
            return float(head(towers.of_pictures([sample.image])))

    return measured


def read_head(path: Path, width: int) -> nn.Module:
    """(N, W) -> (N, 1): its linear layers in the order of their numbers. Raises QiError."""
    from safetensors.torch import load_file

    wanted = f"linear layers (weight and bias) that make one number of {width}"
    with in_one_line(f"filter aesthetic: {path}", wanted, "save the head's state_dict by safetensors"):
        tensors = load_file(path)
        names = sorted((name.removesuffix("weight") for name in tensors if name.endswith("weight")), key=_numbers)
        layers: list[nn.Module] = []
        for name in names:
            weight, bias = tensors[f"{name}weight"], tensors.get(f"{name}bias")
            if weight.ndim != 2 or bias is None or bias.shape != weight.shape[:1]:
                raise ValueError(f"{name}weight is {tuple(weight.shape)}, its bias {None if bias is None else 'amiss'}")
            layers.append(_linear(weight, bias))
        ins = [int(tensors[f"{name}weight"].shape[1]) for name in names]
        outs = [int(tensors[f"{name}weight"].shape[0]) for name in names]
        if [width, *outs] != [*ins, 1]:
            raise ValueError(f"its layers take {ins} and give {outs}")
    return nn.Sequential(*layers)


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    made = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    made.weight = nn.Parameter(weight.float(), requires_grad=False)
    made.bias = nn.Parameter(bias.float(), requires_grad=False)
    return made


def _numbers(name: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", name)]


def likelihood(settings: Nsfw, place: Place) -> Callable[[Sample], float]:
    """The probability of the classes that are not wanted."""
    classifier = _CLASSIFIERS.get(alike(settings, place), lambda: Classifier(settings, place))
    which = classifier.numbers(settings.labels)
    return lambda sample: classifier.probability(sample, which)


class Classifier:
    """An image classifier, frozen. Several threads may ask; they are answered one at a time."""

    def __init__(self, settings: Nsfw, place: Place) -> None:
        """Reads the model. Raises QiError unless it is there and whole."""
        from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification

        self._folder = folder = folder_of("path", settings.path, "filter nsfw")
        own = settings.processor
        see_folder = folder if own is None else folder_of("processor", own, "filter nsfw")
        self._device = place.device if settings.device == "run" else torch.device("cpu")
        self._dtype: torch.dtype = getattr(torch, settings.dtype)
        wanted = "an image classifier in transformers' layout, with safetensors"
        with in_one_line(f"filter nsfw: {folder}", wanted, AGAIN):
            config = AutoConfig.from_pretrained(folder, local_files_only=True)
            self._model = strictly(AutoModelForImageClassification, folder, config, self._dtype).to(self._device)
            self._see = AutoImageProcessor.from_pretrained(see_folder, local_files_only=True, use_fast=False)
        self._known = {str(label): int(number) for number, label in config.id2label.items()}
        self._one_at_a_time = threading.Lock()

    def numbers(self, labels: Sequence[str]) -> list[int]:
        """Of classes by their labels. Raises QiError for one that it does not know."""
        for label in labels:
            if label not in self._known:
                raise QiError(
                    f"filter nsfw: labels: {label!r} is no class of {self._folder}; wanted of {', '.join(self._known)}"
                )
        return [self._known[label] for label in dict.fromkeys(labels)]

    def probability(self, sample: Sample, which: Sequence[int]) -> float:
        """Of any of these classes."""
        picture = Image.fromarray(sample.image.permute(1, 2, 0).cpu().numpy())
        with self._one_at_a_time, torch.inference_mode():
            pixels = self._see(images=[picture], return_tensors="pt")["pixel_values"].to(self._device, self._dtype)
            return float(self._model(pixel_values=pixels).logits.float().softmax(dim=-1)[0, which].sum())


_CLASSIFIERS = Alike[Classifier]()
