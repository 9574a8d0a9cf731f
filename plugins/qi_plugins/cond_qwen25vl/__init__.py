"""Qwen2.5-VL as the released Qwen-Image models are conditioned: text, and for editing pictures, to tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qi_core.hooks import hookimpl

if TYPE_CHECKING:
    from qi_core import Component, Conditioner


@hookimpl
def qi_conditioners() -> dict[str, type[Component[Conditioner]]]:
    """The conditioner of the released checkpoints."""
    from qi_plugins.cond_qwen25vl.component import Qwen25VL

    return {"qwen2.5-vl": Qwen25VL}
