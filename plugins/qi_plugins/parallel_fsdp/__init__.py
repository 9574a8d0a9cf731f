"""The strategy "fsdp": weights, gradients and optimizer state divided over ranks, block by block (torch's FSDP2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qi_core.hooks import hookimpl

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qi_core import ParallelComponent


@hookimpl
def qi_parallels() -> Mapping[str, type[ParallelComponent]]:
    from qi_plugins.parallel_fsdp.component import Fsdp

    return {"fsdp": Fsdp}
