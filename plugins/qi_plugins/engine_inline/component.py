"""Settings of the engine "inline"."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import frozen

if TYPE_CHECKING:
    from qi_core import Engine
    from qi_core.engine import Workshop


@frozen(kw_only=True)
class InlineEngine:
    """Threads of the trainer's own process make samples, and the loop encodes them: nothing to start, nothing to fail;
    the right one where making and encoding is little beside training."""

    def build(self, shop: Workshop) -> Engine:
        from qi_core.engine import Inline

        return Inline(shop.workers)
