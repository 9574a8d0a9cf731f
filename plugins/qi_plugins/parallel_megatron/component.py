"""Settings of the strategy "megatron"."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from attrs import Attribute, field, frozen, validators

from qi_core.weights import not_float16

if TYPE_CHECKING:
    from qi_core import Strategy
    from qi_core.planning import Layout


def _fp8(instance: Megatron, attribute: Attribute[bool], value: bool) -> None:
    if value and instance.engine == "torch":
        raise ValueError("'fp8' is TransformerEngine's, but 'engine' is \"torch\"; set engine = \"te\", or fp8 = false")
    if value and instance.precision == "fp32":
        raise ValueError("'fp8' goes with bf16 weights, but 'precision' is \"fp32\"; set precision = \"bf16\"")


def _sequence(instance: Megatron, attribute: Attribute[bool], value: bool) -> None:
    if value and instance.tensor == 1:
        raise ValueError(
            "'sequence' divides tokens over tensor-parallel ranks, but 'tensor' is 1; set tensor = 2 or more"
        )


@frozen(kw_only=True)
class Megatron:
    """megatron-core: products divided over tensor-parallel ranks, optimizer and fp32 weights over the replicas.

    Trained weights are held in the dtype of the products and gathered in it; gradients are summed in float32.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """``cuda``: this process's GPU of those in the machine. megatron-core trains on GPUs alone, so ``auto`` is that
    too."""
    precision: str = field(default="auto", validator=[not_float16, validators.in_(("auto", "fp32", "bf16"))])
    """Of weights and products: ``fp32``, ``bf16`` (the optimizer keeps fp32 weights beside), or ``auto``: bf16 where
    the GPU has it."""
    tensor: int = field(default=1, validator=validators.gt(0))
    """Ranks that compute one copy of the model together: neighbours, with fast links between them. It must divide the
    number of ranks and of attention heads. A means to fit a model: where it fits, data parallelism is faster."""
    sequence: bool = field(default=False, validator=_sequence)
    """Sequence parallelism: between the divided products each of these ranks has a stretch of the tokens alone, which
    divides the memory of norms, modulation and residuals. Nothing more is sent."""
    overlap: bool = True
    """Sums of gradients run beside the backward pass, and gathering of weights beside the next forward pass."""
    engine: Literal["auto", "torch", "te"] = "auto"
    """Linear layers and attention of TransformerEngine (``te``, needs ``qi[te]`` and a GPU) or torch's; ``auto``: te
    where it is."""
    fp8: bool = field(default=False, validator=_fp8)
    """Products in 8 bits (TransformerEngine, Hopper or newer). Check the losses of a short run against bf16's first."""
    threads: int = field(default=0, validator=validators.ge(0))
    """CPU threads of one operation; 0 leaves torch's choice."""
    timeout: float = field(default=600, validator=validators.gt(0))
    """Seconds after which a collective counts as hung."""

    def build(self) -> Strategy:
        """Join the other ranks. Raises QiError where megatron-core, the hardware or the number of ranks are wanting."""
        from qi_plugins.parallel_megatron.strategy import LiveMegatron

        return LiveMegatron(self)

    def layout(self, ranks: int) -> Layout:
        """See ``qi_core.planning.Laid``."""
        from qi_core.planning import Layout, Transfer, replicas_of

        replicas = replicas_of(ranks, self.tensor)
        size = 4 if self.precision == "fp32" else 2
        sums = Transfer(kind="reduce-scatter", of="gradients", ranks=replicas, stride=self.tensor, itemsize=4)
        # Buffers hold trained weights alone, so what is gathered goes by them too.
        gathers = Transfer(kind="all-gather", of="gradients", ranks=replicas, stride=self.tensor, itemsize=size)
        return Layout(
            replicas=replicas,
            tensor=self.tensor,
            sequence=self.sequence,
            optimizer_over=replicas,
            shadows_over=replicas,
            weight_bytes=size,
            frozen_bytes=size,
            gradient_bytes=4,
            master_bytes=0 if size == 4 else 4,
            product_bytes=size,
            norm_bytes=size,
            bucketed=True,
            overlap=self.overlap,
            transfers=(sums, gathers) if replicas > 1 else (),
        )
