"""The optimizer "adamw": decoupled weight decay, linear warm-up, constant or cosine rate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qi_core.hooks import hookimpl

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qi_core import OptimizerComponent


@hookimpl
def qi_optimizers() -> Mapping[str, type[OptimizerComponent]]:
    from qi_plugins.optimizer_adamw.component import AdamW

    return {"adamw": AdamW}
