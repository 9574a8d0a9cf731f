"""Settings of the strategy "fsdp"."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from attrs import field, frozen, validators

from qi_core.weights import not_float16

if TYPE_CHECKING:
    from qi_core import Strategy
    from qi_core.planning import Layout


@frozen(kw_only=True)
class Fsdp:
    """Many processes, one GPU each (or CPUs): every rank keeps a part of each weight, of its gradient and of its
    optimizer state, and gathers the weights of a block while it computes with them (Zhao et al. 2023, arXiv 2304.11277;
    Rajbhandari et al. 2020, arXiv 1910.02054, stage 3). Trained weights are float32 whatever is gathered."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """``cuda``: each process takes the GPU of its local rank; ranks on the CPU talk over gloo. ``auto``: GPUs if there
    are some."""
    precision: str = field(default="auto", validator=[not_float16, validators.in_(("auto", "fp32", "bf16"))])
    """``fp32``, ``bf16`` (weights are gathered in bfloat16 and products made in it; gradients are summed over ranks in
    float32), or ``auto``: bf16 on a GPU that has it, else fp32."""
    shard: int = field(default=0, validator=validators.ge(0))
    """Over how many data-parallel ranks weights are divided; 0: all of them. Fewer, such as the GPUs of one machine:
    each such group keeps a copy of all, gathers within itself, and gradients of the groups are added up (HSDP)."""
    tensor: int = field(default=1, validator=validators.gt(0))
    """So many ranks compute one replica together, each with its part of the attention heads and hidden features
    (Shoeybi et al. 2019, arXiv 1909.08053). It saves activations and costs exchanges in every block: for what does not
    fit otherwise, and within one machine."""
    offload: bool = False
    """Keep weights, gradients and optimizer state in the CPU's memory, and update there: little GPU memory, slow."""
    compile: bool = False
    """Compile the repeated blocks with torch.compile, or what they say can be: slower to start, quicker to run."""
    threads: int = field(default=0, validator=validators.ge(0))
    """CPU threads of one operation; 0 leaves torch's choice."""
    timeout: float = field(default=600, validator=validators.gt(0))
    """Seconds after which an exchange between ranks counts as hung."""

    def build(self) -> Strategy:
        """Join the other ranks. Raises QiError where the hardware or the number of ranks is not what was asked for."""
        from qi_plugins.parallel_fsdp.strategy import LiveFsdp

        return LiveFsdp(self)

    def layout(self, ranks: int) -> Layout:
        """See ``qi_core.planning.Laid``."""
        from qi_core.planning import Layout, Transfer
        from qi_plugins.parallel_fsdp.grid import Grid

        grid = Grid.of(ranks, self.tensor, self.shard)
        bf16 = self.precision != "fp32" and (self.device != "cpu" or self.precision == "bf16")
        item, shards = 2 if bf16 else 4, grid.shards
        gathers = shards > 1
        transfers: list[Transfer] = []
        if gathers:
            transfers += [
                Transfer(
                    kind="all-gather",
                    of="weights",
                    ranks=shards,
                    stride=grid.tensor,
                    itemsize=item,
                    times=2,  # before the forward and the backward pass of a block
                    each="micro-batch",
                ),
                Transfer(
                    kind="reduce-scatter",
                    of="gradients",
                    ranks=shards,
                    stride=grid.tensor,
                    itemsize=4,
                    each="micro-batch",
                ),
            ]
        if grid.copies > 1:
            transfers.append(
                Transfer(
                    kind="all-reduce",
                    of="gradients",
                    ranks=grid.copies,
                    stride=shards * grid.tensor,
                    itemsize=4,
                    part=shards,
                )
            )
        return Layout(
            replicas=grid.replicas,
            tensor=grid.tensor,
            weights_over=shards,
            gradients_over=shards,
            optimizer_over=shards,
            shadows_over=shards,
            frozen_bytes=item,
            product_bytes=item,
            copied=bf16 and not grid.divides and not self.offload,
            gathered=2 if grid.divides or self.offload else 0,  # one at work, the next on its way
            offload=self.offload,
            overlap=True,
            transfers=tuple(transfers),
        )
