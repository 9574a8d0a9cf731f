"""LoRA: a trained matrix of low rank beside each of some frozen ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from qi_core.hooks import hookimpl

if TYPE_CHECKING:
    from qi_core import AdapterComponent


@hookimpl
def qi_adapters() -> Mapping[str, type[AdapterComponent]]:
    """``lora``."""
    from qi_plugins.adapter_lora.component import LoRA

    return {"lora": LoRA}
