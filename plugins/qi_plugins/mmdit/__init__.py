"""The double-stream transformer of Qwen-Image, on packed sequences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from qi_core.hooks import hookimpl

if TYPE_CHECKING:
    from qi_core import DenoiserComponent


@hookimpl
def qi_denoisers() -> Mapping[str, type[DenoiserComponent]]:
    """``mmdit``."""
    from qi_plugins.mmdit.component import MMDiT

    return {"mmdit": MMDiT}
