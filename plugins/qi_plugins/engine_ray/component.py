"""Settings of the engine "ray"."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import field, frozen, validators

if TYPE_CHECKING:
    from qi_core import Engine
    from qi_core.engine import Workshop


@frozen(kw_only=True)
class RayEngine:
    """Producers as Ray actors: Ray places them on machines and GPUs, and starts them again; what they make comes by
    this engine's own connection, as from any other producer."""

    address: str = ""
    """Of a Ray cluster: "auto" (the one that this machine belongs to), or host:port. Empty: Ray is started here, for
    this run, which then must have one rank."""
    actors: int = field(default=2, validator=validators.gt(0))
    """Producers."""
    processes: int = field(default=1, validator=validators.gt(0))
    """That make samples, in each producer."""
    cpus: float = field(default=1.0, validator=validators.ge(0))
    """Cores that Ray sets aside for each."""
    gpus: float = field(default=0.0, validator=validators.ge(0))
    """GPUs that Ray sets aside for each; parts of one too (0.5)."""
    device: str = field(default="", validator=validators.matches_re(r"(auto|cpu|cuda(:\d+)?)?"))
    """Where they encode; empty: on the GPU that Ray gives them, or else on the CPU."""
    deadline: float = field(default=120.0, validator=validators.gt(0))
    """Seconds in which a portion must be made; a process that takes longer hangs, and is killed and replaced."""
    memory: int = field(default=0, validator=validators.ge(0))
    """Bytes of memory at which a process is killed and replaced; 0: no limit."""
    window: int = field(default=8, validator=validators.gt(0))
    """Portions that each trainer has under way at once."""
    timeout: float = field(default=300.0, validator=validators.gt(0))
    """Seconds without any producer after which the run ends; Ray too must have placed one by then."""

    def build(self, shop: Workshop) -> Engine:
        from qi_plugins.engine_ray.cluster import Cluster

        return Cluster(self, shop)
