"""The plain denoiser's weights with a LoRA worked in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import torch

from qi_core.tensorfiles import Form, forms

if TYPE_CHECKING:
    from torch import Tensor


class Merged(Mapping[str, "Tensor"]):
    """W + s B A, each made when it is asked for."""

    def __init__(self, tensors: Mapping[str, Tensor], scale: float) -> None:
        self._tensors, self._scale = tensors, scale
        known = forms(tensors)
        self._adapted = {name.removesuffix("lora_A") + "weight" for name in known if name.endswith(".lora_A")}
        self.forms = {
            # In float32: bfloat16 has 8 bits, so a change of less than 1/512 of a weight would be rounded away.
            name: Form(torch.float32, form.shape) if name in self._adapted else form
            for name, form in known.items()
            if not name.endswith((".lora_A", ".lora_B"))
        }

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.forms:
            raise KeyError(name)
        weight = self._tensors[name]
        if name not in self._adapted:
            return weight
        module = name.removesuffix("weight")
        a_RI, b_OR = (self._tensors[module + part].to(weight.device, torch.float32) for part in ("lora_A", "lora_B"))
        return torch.addmm(weight.float(), b_OR, a_RI, alpha=self._scale)

    def __contains__(self, name: object) -> bool:
        return name in self.forms

    def __iter__(self) -> Iterator[str]:
        return iter(self.forms)

    def __len__(self) -> int:
        return len(self.forms)
