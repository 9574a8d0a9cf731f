"""The recipe's side of LoRA: settings, and what is done with them. No torch at import."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from attrs import Attribute, field, frozen, validators

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from qi_core import Adapter, DenoiserModule, Place


def _some(_: LoRA, attribute: Attribute[Any], value: tuple[str, ...]) -> None:
    if not value or not all(value):
        raise ValueError(
            f"'{attribute.name}' is {value}; wanted one pattern of module names at least, such as *.attn.*"
        )


@frozen(kw_only=True)
class LoRA:
    """Low-rank adaptation (Hu et al. 2021, arXiv 2106.09685, eq. 3): W x + s B A x, only A and B are trained."""

    rank: int = field(default=16, validator=validators.gt(0))
    """Rows of A and columns of B."""
    alpha: float | None = field(default=None, validator=validators.optional(validators.gt(0)))
    """s = alpha / rank. Unset: the rank, so s = 1."""
    rslora: bool = False
    """s = alpha / sqrt(rank) instead, which keeps updates of large ranks as large (Kalajdzievski 2023, arXiv
    2312.03732)."""
    targets: tuple[str, ...] = field(default=("*.attn.*",), validator=_some)
    """Shell patterns of module names; the linear layers among those that match are adapted. ``*.attn.*``: the
    projections of the MMDiT's attention, of both streams. ``*_mlp.*``: its MLPs. ``*``: every linear layer."""
    init: Literal["kaiming", "gaussian"] = "kaiming"
    """How A begins. kaiming: uniform within 1 / sqrt(inputs); gaussian: normal with deviation 1 / rank. B begins at
    zero, so the adapted model begins as the model."""
    weights: Path | None = None
    """A LoRA to start from: a file or folder in the layout of PEFT, diffusers, ComfyUI or kohya, found out by itself.
    Its rank must be the one above; its own scale is worked into B. It is read again when the run is resumed."""

    @property
    def scale(self) -> float:
        """s."""
        alpha = self.rank if self.alpha is None else self.alpha
        return alpha / (math.sqrt(self.rank) if self.rslora else self.rank)

    def apply(self, model: DenoiserModule, place: Place) -> Adapter:
        """See ``qi_core.adapter.AdapterComponent``. Frozen weights are kept in ``place.dtype``."""
        from qi_plugins.adapter_lora.layers import attach
        from qi_plugins.adapter_lora.reading import read

        live = attach(self, model, place)
        if self.weights is not None:
            live.load(str(self.weights), read(self.weights, live.shapes))
        return live

    def merged(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """W + s B A under the name of W, in float32 whatever W is kept in; all other tensors as they are."""
        from qi_plugins.adapter_lora.merging import Merged

        return Merged(tensors, self.scale)

    def export(self, path: Path, tensors: Mapping[str, Tensor], layout: str, dtype: torch.dtype | None) -> None:
        """``peft`` and ``diffusers`` make a folder, ``comfyui`` a file."""
        from qi_plugins.adapter_lora.writing import write_adapter

        write_adapter(self, path, tensors, layout, dtype)
