"""Settings of the engine "local"."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import field, frozen, validators

if TYPE_CHECKING:
    from qi_core import Engine
    from qi_core.engine import Workshop


@frozen(kw_only=True)
class LocalEngine:
    """A producer on each machine of the run: a small server, and processes that make and encode samples. The run starts
    it, starts it again if it dies, and ends it."""

    processes: int = field(default=2, validator=validators.gt(0))
    """That make samples, a machine. Each loads the encoders."""
    device: str = field(default="", validator=validators.matches_re(r"(auto|cpu|cuda(:\d+)?)?"))
    """Where they encode ("cpu", "cuda:7"); empty: on the trainers' kind of device, which they then share with them."""
    deadline: float = field(default=120.0, validator=validators.gt(0))
    """Seconds in which a portion must be made; a process that takes longer hangs, and is killed and replaced."""
    memory: int = field(default=0, validator=validators.ge(0))
    """Bytes of memory at which a process is killed and replaced; 0: no limit."""
    window: int = field(default=8, validator=validators.gt(0))
    """Portions that each trainer has under way at once."""
    timeout: float = field(default=300.0, validator=validators.gt(0))
    """Seconds without the producer after which the run ends."""

    def build(self, shop: Workshop) -> Engine:
        from qi_plugins.engine_local.local import Local

        return Local(self, shop)
