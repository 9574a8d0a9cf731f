"""The strategy "megatron": megatron-core's tensor parallelism, distributed optimizer and overlapped buffers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qi_core.hooks import hookimpl

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qi_core import ParallelComponent


@hookimpl
def qi_parallels() -> Mapping[str, type[ParallelComponent]]:
    from qi_plugins.parallel_megatron.component import Megatron

    return {"megatron": Megatron}
