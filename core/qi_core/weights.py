"""Weights by name: put into a module with every mismatch told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from qi_core.errors import QiError

if TYPE_CHECKING:
    from attrs import Attribute
    from torch import Tensor, nn

    from qi_core.tensorfiles import Form

SHOWN = 4
NO_FLOAT16 = (
    "activations of these models leave float16's range (65504), which gives NaN or black pictures; "
    "use bfloat16 or float32"
)


def not_float16(instance: object, attribute: Attribute[str], value: str) -> None:
    """A validator of a setting that names a precision."""
    if value in ("fp16", "float16", "half"):
        raise ValueError(f"'{attribute.name}' {value!r} is refused: {NO_FLOAT16}")


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def refuse_mismatch(wanted: Mapping[str, Sequence[int]], found: Mapping[str, Form], where: str, advice: str) -> None:
    """Compare names and shapes. Raises QiError naming what is missing, extra or misshapen."""
    missing = [name for name in wanted if name not in found]
    extra = [name for name in found if name not in wanted]
    misshapen = [
        f"{name} is {found[name].shape}, wanted {tuple(shape)}"
        for name, shape in wanted.items()
        if name in found and found[name].shape != tuple(shape)
    ]
    told = [
        f"{what}: {_some(names)}"
        for what, names in (("missing", missing), ("extra", extra), ("misshapen", misshapen))
        if names
    ]
    if told:
        raise QiError(f"{where}: the weights are not of this model ({'; '.join(told)}); {advice}")


def refuse_unusable(forms: Mapping[str, Form], where: str) -> None:
    """Look at the dtypes of released weights. Raises QiError naming one that cannot be computed with."""
    import torch

    for name, form in forms.items():
        if form.dtype == torch.float16:
            raise QiError(f"{where}: {name} is float16; {NO_FLOAT16}")
        if form.dtype not in (torch.bfloat16, torch.float32):
            raise QiError(f"{where}: {name} is {form.dtype}; want bfloat16 or float32; get the original weights")


def load_weights(module: nn.Module, tensors: Mapping[str, Tensor], where: str, advice: str) -> None:
    """Copy tensors into a module one at a time, after all names and shapes are found equal."""
    from qi_core.shards import Whole, fill_all

    fill_all(Whole(module), tensors, where, advice, list(module.state_dict()))
