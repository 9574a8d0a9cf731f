"""Weights by name: put into a module with every mismatch told."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from qi_core.errors import QiError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

SHOWN = 4


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def refuse_mismatch(
    wanted: Mapping[str, Sequence[int]], found: Mapping[str, Sequence[int]], where: str, advice: str
) -> None:
    """Compare names and shapes. Raises QiError naming what is missing, extra or misshapen."""
    missing = [name for name in wanted if name not in found]
    extra = [name for name in found if name not in wanted]
    misshapen = [
        f"{name} is {tuple(found[name])}, wanted {tuple(shape)}"
        for name, shape in wanted.items()
        if name in found and tuple(found[name]) != tuple(shape)
    ]
    told = [
        f"{len(names)} {what}: {_some(names)}"
        for what, names in (("missing", missing), ("not known", extra), ("of another shape", misshapen))
        if names
    ]
    if told:
        raise QiError(f"{where}: these weights are not for this model ({'; '.join(told)}); {advice}")


def refuse_half(dtype: torch.dtype, where: str) -> None:
    """fp16 is refused: its range is too small for this model."""
    import torch

    if dtype == torch.float16:
        raise QiError(
            f"{where}: float16 weights; this model leaves float16's range and gives NaN or black images; "
            "use a bfloat16 or float32 checkpoint"
        )


def load_weights(module: nn.Module, tensors: Mapping[str, Tensor], shapes: Mapping[str, Sequence[int]], where: str,
                 advice: str) -> None:  # fmt: skip
    """Copy tensors into a module one at a time, after names and shapes are found equal."""
    import torch

    own = module.state_dict()
    refuse_mismatch({name: tensor.shape for name, tensor in own.items()}, shapes, where, advice)
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(tensors[name])


def named(names: Iterable[str]) -> str:
    """A few names for a message."""
    return _some(list(names))
