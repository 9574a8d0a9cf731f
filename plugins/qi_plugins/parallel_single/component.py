"""Settings of the strategy "single"."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import field, frozen, validators

from qi_core.weights import not_float16

if TYPE_CHECKING:
    from qi_core import Strategy
    from qi_core.planning import Layout


@frozen(kw_only=True)
class Single:
    """One process, one device. Trained weights are float32 whatever the precision of the products."""

    device: str = field(default="auto", validator=validators.matches_re(r"auto|cpu|cuda(:\d+)?"))
    """``cpu``, ``cuda``, ``cuda:1``, ...; ``auto`` takes the first GPU, or else the CPU."""
    precision: str = field(default="auto", validator=[not_float16, validators.in_(("auto", "fp32", "bf16"))])
    """``fp32`` (on a GPU without TF32, which keeps ten bits of 23), ``bf16`` (autocast: matrix products in bfloat16),
    or ``auto``: bf16 on a GPU that has it, else fp32."""
    compile: bool = False
    """Compile the repeated blocks with torch.compile, or what they say can be: slower to start, quicker to run."""
    threads: int = field(default=0, validator=validators.ge(0))
    """CPU threads of one operation; 0 leaves torch's choice."""

    def build(self) -> Strategy:
        """Choose the device. Raises QiError where the hardware lacks what was asked for."""
        from qi_core.team import refuse_company
        from qi_plugins.parallel_single.strategy import LiveSingle

        refuse_company("single")
        return LiveSingle(self)

    def layout(self, ranks: int) -> Layout:
        """See ``qi_core.planning.Laid``. Raises QiError for more than one rank."""
        from qi_core import QiError
        from qi_core.planning import Layout

        if ranks != 1:
            raise QiError(
                f'parallel.name: "single" is one process, but {ranks} ranks were asked for; choose "fsdp" or "megatron"'
            )
        bf16 = self.precision != "fp32" and (self.device != "cpu" or self.precision == "bf16")
        return Layout(replicas=1, frozen_bytes=2 if bf16 else 4, product_bytes=2 if bf16 else 4, copied=bf16)
