"""What parts say of themselves before a run, so that its memory and time can be told without a GPU (``qi plan``).

All of it is optional: a part that offers none of these methods trains as well, only nothing can be planned with it.
Numbers are of one rank and of one *micro-batch*, what it computes between two calls of ``backward``, unless told.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, runtime_checkable

from attrs import field, frozen, validators

from qi_core.errors import QiError

if TYPE_CHECKING:
    from qi_core.denoiser import DenoiserModule

Kind: TypeAlias = Literal["all-gather", "reduce-scatter", "all-reduce"]
_POSITIVE = validators.gt(0)


@frozen(kw_only=True)
class Transfer:
    """A message that all trained (or frozen) weights of a rank, or their gradients, take part in.

    Its volume follows from the collective: with n ranks and S bytes, a rank of a ring sends (n - 1) / n S for an
    all-gather or a reduce-scatter, twice that for an all-reduce (Thakur et al. 2005, section 4).
    """

    kind: Kind
    of: Literal["weights", "gradients"]
    """``weights``: of all parameters, frozen ones too. ``gradients``: of trained ones."""
    ranks: int = field(validator=_POSITIVE)
    """How many take part."""
    stride: int = field(default=1, validator=_POSITIVE)
    """Distance between two of them in the numbering of ranks: neighbours stand in one machine."""
    itemsize: int = field(default=4, validator=_POSITIVE)
    """Bytes of a value on the wire."""
    part: int = field(default=1, validator=_POSITIVE)
    """The message is one part in so many of what a tensor-parallel rank has of the model: its own shard's sum."""
    times: int = field(default=1, validator=_POSITIVE)
    """Messages a micro-batch or an update."""
    each: Literal["micro-batch", "update"] = "update"


@frozen(kw_only=True)
class Layout:
    """How a strategy lays a model out over ranks: rank = replica * tensor + tensor rank.

    A value of a weight that tensor parallelism divides is on ``1 / tensor`` of a replica's ranks; the ``over`` numbers
    say over how many replicas it is divided once more. Bytes are of one value.
    """

    replicas: int = field(validator=_POSITIVE)
    """Data-parallel ranks; each takes its part of every batch."""
    tensor: int = field(default=1, validator=_POSITIVE)
    """Ranks that compute one replica together (``Sharding``)."""
    sequence: bool = False
    """Between the divided products, tokens are divided over the tensor-parallel ranks (sequence parallelism)."""

    weights_over: int = field(default=1, validator=_POSITIVE)
    gradients_over: int = field(default=1, validator=_POSITIVE)
    optimizer_over: int = field(default=1, validator=_POSITIVE)
    """Of the optimizer's values, the fp32 masters among them."""
    shadows_over: int = field(default=1, validator=_POSITIVE)
    """Of the average and of other copies that follow the weights."""

    weight_bytes: int = field(default=4, validator=_POSITIVE)
    """A trained weight as it is held."""
    frozen_bytes: int = field(default=2, validator=_POSITIVE)
    """A frozen weight as it is held."""
    gradient_bytes: int = field(default=4, validator=_POSITIVE)
    master_bytes: int = field(default=0, validator=validators.ge(0))
    """The optimizer's own copy of a trained weight: 0 where held weights are fp32, 4 where they are bf16."""
    shadow_bytes: int = field(default=4, validator=_POSITIVE)
    product_bytes: int = field(default=2, validator=_POSITIVE)
    """A value of an activation: what matrix products compute in."""
    norm_bytes: int = field(default=4, validator=_POSITIVE)
    """A value as norms get it: 4 under autocast, which computes them in fp32; 2 where the whole model is bf16."""

    copied: bool = False
    """Autocast keeps a copy of every weight in ``product_bytes`` from the forward to the end of the backward pass."""
    gathered: int = field(default=0, validator=validators.ge(0))
    """Blocks that stand whole at one time, in ``product_bytes``, beside the shards (with their gradients in the
    backward pass); 0: weights are not gathered block by block."""
    bucketed: bool = False
    """Gradients lie in one buffer, held from the start, also those of an update's first micro-batch."""
    offload: bool = False
    """Weights, gradients, optimizer and shadows lie in the CPU's memory when they are not at work."""
    overlap: bool = False
    """Transfers over replicas go on beside the computation."""
    transfers: tuple[Transfer, ...] = ()
    """Over replicas. What tensor parallelism sends goes by tokens: ``Costs.exchange``."""

    @property
    def ranks(self) -> int:
        """All of them."""
        return self.replicas * self.tensor


def divisors(number: int) -> str:
    """All of them, for a message."""
    return ", ".join(str(n) for n in range(1, number + 1) if number % n == 0)


def replicas_of(ranks: int, tensor: int) -> int:
    """Data-parallel ranks of a tensor-parallel degree. Raises QiError if it does not divide the ranks."""
    if ranks % tensor:
        raise QiError(f"parallel.tensor: {tensor} does not divide {ranks} ranks; set it to one of {divisors(ranks)}")
    return ranks // tensor


@runtime_checkable
class Laid(Protocol):
    """The settings of a strategy that can say how it would lay a model out."""

    def layout(self, ranks: int) -> Layout:
        """Over so many ranks, with ``device`` and ``precision`` "auto" taken as a GPU's and bf16. Touches no device.

        Raises QiError, one line, where degrees don't divide the ranks.
        """
        ...


@frozen(kw_only=True)
class Tokens:
    """One sample, as a denoiser sees it."""

    text: int
    target: int
    references: int = 0


class Costs(Protocol):
    """What a denoiser of one architecture costs. Figures are a rank's, for the ``tensor``, ``sequence`` and bytes of
    its layout."""

    @property
    def heads(self) -> int:
        """A tensor-parallel degree must divide it."""
        ...

    def network(self) -> DenoiserModule:
        """The network on the meta device: names, shapes and what is trained, and no memory."""
        ...

    def flops(self, samples: Sequence[Tokens], tensor: int = 1) -> int:
        """Floating-point operations of a forward pass: matrix products and attention. The backward pass has twice as
        many."""
        ...

    def again(self, samples: Sequence[Tokens], tensor: int = 1) -> int:
        """Operations computed again in the backward pass, by activation checkpointing."""
        ...

    def activations(self, samples: Sequence[Tokens], layout: Layout, network: DenoiserModule) -> tuple[int, int]:
        """Bytes kept for the backward pass when the forward pass ends, and the most that is needed beside them for a
        while (a block computed again, gradients of activations). ``network``: as it will be trained, adapter and all,
        for what is frozen keeps less."""
        ...

    def exchange(self, samples: Sequence[Tokens], layout: Layout) -> int:
        """Bytes that a rank of a ring sends within its tensor-parallel group, forward and backward."""
        ...


@runtime_checkable
class Costed(Protocol):
    """The settings of a denoiser that knows what it costs."""

    def costs(self, latent_width: int, text_width: int) -> Costs:
        """For these encoders. Raises QiError where the settings don't fit them."""
        ...


@frozen(kw_only=True)
class Size:
    """An encoder as a plan needs it."""

    width: int
    """Values in a token."""
    parameters: int = 0
    """Frozen, held in the strategy's dtype."""
    scale: int = 1
    """Of an autoencoder: pixels along one side of a token."""
    note: str = ""
    """What was taken for granted."""


@runtime_checkable
class Sized(Protocol):
    """The settings of an encoder that knows its size without being built."""

    def plan_size(self) -> Size:
        """As built; as released, and told so, where the files are not there."""
        ...


@runtime_checkable
class Shown(Protocol):
    """The settings of a source that knows what sizes its pictures have."""

    def sides(self) -> Sequence[int]:
        """Areas of target pictures, each as the side of a square in pixels; empty: sources within it know."""
        ...
