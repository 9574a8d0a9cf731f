"""Memory and time of a step, by arithmetic. Every figure is of one rank.

What is counted is told in docs/plan.md, with what each formula was held against.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, prod
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from attrs import frozen

from qi_core.errors import QiError
from qi_core.planning import Costs, Layout, Tokens, Transfer, divisors
from qi_registry.planning.cards import GB, GIB, Card

if TYPE_CHECKING:
    from qi_core.denoiser import DenoiserModule, Sharding

MOMENTS = 8
"""Bytes of AdamW's two moments of a value, fp32."""
RESERVE = 2 * GIB
"""CUDA's context, NCCL's buffers and the workspaces of kernels."""
MARGIN = 0.05
"""Of a card's memory, left free: the formulas are not exact."""
FRAGMENTED = 0.04
"""Share of what comes and goes (activations, buffers, gradients) that the allocator cannot use."""

PRODUCTS = 0.60
"""Share of the peak that large matrix products and attention reach."""
STREAMED = 0.75
"""Share of the memory's bandwidth that everything else reaches."""
TOUCHED = 6
"""Passes over what a block keeps when nothing is computed again, that norms, gates, GELU and rotations make forward and
backward."""
LINKED = 0.70
"""Share of a link's bandwidth that collectives reach."""
HIDDEN = 0.80
"""Share of the transfers over replicas that can hide behind computation: both want memory and cores."""
HOST = 25 * GB
"""Bytes a second between a card and the memory of its CPU, each way."""
HOST_UPDATE = 12 * GB
"""Bytes a second of the optimizer on the CPU: a rank's share of its memory's bandwidth."""


@frozen(kw_only=True)
class Values:
    """How many values of weights a tensor-parallel rank has, before data parallelism divides them."""

    trained: int
    frozen: int
    matrices: int
    """Trained ones that products use and autocast copies."""
    block: int
    """In the largest block."""
    outside: int
    """In no block."""
    total: int
    """Of the whole model, on all ranks together."""


@frozen(kw_only=True, eq=False)
class Job:
    """What is to be done in one update, whatever the layout."""

    costs: Costs
    plain: Costs
    """The same with nothing computed again."""
    network: DenoiserModule
    """On the meta device, its adapter in it."""
    sharding: Sharding
    adapted: bool
    sample: tuple[Tokens, ...]
    """What the denoiser sees of one sample: one picture, or the two of a pair."""
    batch: int
    """Samples an update."""
    shadows: tuple[str, ...]
    asked: int
    """Forward passes without gradients, of a reference or an older policy."""
    encoders: int
    """Frozen weights of autoencoder and conditioner."""
    drawing: int = 0
    """Of a conditioner that is there only while pictures are drawn."""


@frozen(kw_only=True)
class Item:
    """One line of the table."""

    name: str
    bytes: int
    note: str = ""


@frozen(kw_only=True)
class Estimate:
    """A layout, what it needs and how long it takes."""

    layout: Layout
    micro: int
    """Samples a replica computes at once, the one with the most."""
    accumulate: int
    items: tuple[Item, ...]
    peak: int
    """Bytes of the card at the worst moment of a step: less than the items together, not all are there at once."""
    host: int
    """Bytes of the CPU's memory, for each rank."""
    capacity: int
    """Bytes of the card, less a margin."""
    seconds: float
    """Of a step."""
    parts: tuple[tuple[str, float], ...]
    """Where they go; with overlap, transfers hide behind products."""
    mfu: float
    samples_per_second: float

    @property
    def fits(self) -> bool:
        """Whether it does."""
        return self.peak <= self.capacity

    @property
    def room(self) -> int:
        """Bytes left."""
        return self.capacity - self.peak


def values(network: DenoiserModule, sharding: Sharding, tensor: int) -> Values:
    """Counted by name and shape, as the sharding says. Raises QiError for a degree that does not divide the heads."""
    if sharding.heads % tensor:
        raise QiError(
            f"parallel.tensor: {tensor} does not divide the denoiser's {sharding.heads} heads; "
            f"set it to one of {divisors(sharding.heads)}"
        )
    trained = frozen_ = matrices = outside = total = 0
    blocks: dict[str, int] = {}
    for name, parameter in network.named_parameters():
        split = sharding.split(name)
        whole = prod(parameter.shape)
        held = whole if split in ("replicated", "partial") else ceil(whole / tensor)
        total += whole
        if parameter.requires_grad:
            trained += held
            matrices += held if parameter.ndim >= 2 else 0
        else:
            frozen_ += held
        if name.startswith(f"{sharding.blocks}."):
            number = name.removeprefix(f"{sharding.blocks}.").partition(".")[0]
            blocks[number] = blocks.get(number, 0) + held
        else:
            outside += held
    return Values(
        trained=trained,
        frozen=frozen_,
        matrices=matrices,
        block=max(blocks.values(), default=0),
        outside=outside,
        total=total,
    )


def estimate(
    job: Job, layout: Layout, card: Card, per_node: int, accumulate: int, mfu: float | None = None
) -> Estimate:
    """One layout. Raises QiError where degrees don't divide heads or batch."""
    if job.batch < layout.replicas:
        raise QiError(
            f"train.batch: {job.batch} samples for {layout.replicas} replicas leave some without; set it to "
            f"{layout.replicas} or more, or use fewer GPUs"
        )
    own = ceil(job.batch / layout.replicas)
    micro = ceil(own / accumulate)
    count = _values(job, layout.tensor)
    items, peak, host = _memory(job, layout, count, job.sample * micro, accumulate)
    parts, seconds = _time(job, layout, count, job.sample * micro, ceil(own / micro), card, per_node)
    useful = _passes(job) * job.plain.flops(job.sample) * job.batch
    peak_flops = layout.ranks * _peak(card, layout)
    if mfu is not None:
        seconds = useful / (peak_flops * mfu)
        parts = ()
    return Estimate(
        layout=layout,
        micro=micro,
        accumulate=accumulate,
        items=items,
        peak=peak,
        host=host,
        capacity=int(card.memory * GIB * (1 - MARGIN)),
        seconds=seconds,
        parts=parts,
        mfu=useful / (peak_flops * seconds),
        samples_per_second=job.batch / seconds,
    )


_COUNTED: WeakKeyDictionary[DenoiserModule, dict[int, Values]] = WeakKeyDictionary()


def _values(job: Job, tensor: int) -> Values:
    counted = _COUNTED.setdefault(job.network, {})
    if tensor not in counted:
        counted[tensor] = values(job.network, job.sharding, tensor)
    return counted[tensor]


def _peak(card: Card, layout: Layout) -> float:
    """Operations a second; without TF32, products in fp32 run at a sixteenth of the bf16 peak at best."""
    return card.peak * 1e12 / (1 if layout.product_bytes == 2 else 16)


def _passes(job: Job) -> int:
    """Forward, gradients of inputs, and gradients of weights where they are trained; and forward passes of others."""
    return (2 if job.adapted else 3) + job.asked


def _memory(
    job: Job, layout: Layout, count: Values, samples: Sequence[Tokens], accumulate: int
) -> tuple[tuple[Item, ...], int, int]:
    """The lines of the table, the most that is there at once, and what lies in the CPU's memory."""
    trained, idle = count.trained, count.frozen
    idle_bytes = layout.frozen_bytes if job.adapted else layout.weight_bytes
    weights = trained * layout.weight_bytes // layout.weights_over
    base = idle * idle_bytes // layout.weights_over
    gradients = trained * layout.gradient_bytes // layout.gradients_over
    optimizer = trained * (layout.master_bytes + MOMENTS) // layout.optimizer_over
    shadow = trained * layout.shadow_bytes // layout.shadows_over
    encoders = job.encoders * layout.frozen_bytes
    copies = count.matrices * layout.product_bytes if layout.copied else 0
    gathered = 0
    if layout.gathered:
        whole = layout.gathered * count.block + count.outside
        gathered = whole * layout.product_bytes + 2 * count.block * (layout.product_bytes + layout.gradient_bytes)
    kept, beside = job.costs.activations(samples, layout, job.network)

    at_rest = weights + base + optimizer + shadow * len(job.shadows)
    host = 0
    if layout.offload:  # gradients too, once they are reduced
        host, at_rest = at_rest + gradients, 0
        gradients = 2 * count.block * layout.gradient_bytes // layout.gradients_over
    stands = gradients if layout.bucketed or accumulate > 1 else 0
    begins = kept + copies + stands  # the backward pass, with everything that the forward pass kept
    ends = max(gradients, stands)  # or with all gradients and nothing kept any more
    moving = max(begins, ends) + beside + gathered
    trains = int(moving * (1 + FRAGMENTED))
    draws = stands + job.drawing * layout.frozen_bytes  # nothing is kept for gradients then
    peak = at_rest + encoders + RESERVE + max(trains, draws)
    items = [
        Item(name="frozen weights", bytes=base, note=_shared(idle_bytes, layout.tensor, layout.weights_over)),
        Item(
            name="trained weights", bytes=weights, note=_shared(layout.weight_bytes, layout.tensor, layout.weights_over)
        ),
        Item(
            name="gradients", bytes=gradients, note=_shared(layout.gradient_bytes, layout.tensor, layout.gradients_over)
        ),
        Item(
            name="optimizer",
            bytes=optimizer,
            note=_shared(layout.master_bytes + MOMENTS, layout.tensor, layout.optimizer_over),
        ),
    ]
    items += [
        Item(name=name, bytes=shadow, note=_shared(layout.shadow_bytes, layout.tensor, layout.shadows_over))
        for name in job.shadows
    ]
    items += [
        Item(name="frozen encoders", bytes=encoders),
        Item(name="activations", bytes=kept, note=f"{len(samples)} picture{'s' if len(samples) > 1 else ''} at once"),
        Item(name="at work", bytes=beside, note="gradients of activations, a block computed again"),
        Item(name="copies by autocast", bytes=copies),
        Item(name="gathered blocks", bytes=gathered),
        Item(name="CUDA, NCCL, kernels", bytes=RESERVE, note="assumed"),
    ]
    return tuple(item for item in items if item.bytes), peak, host


def _shared(size: int, tensor: int, over: int) -> str:
    divided = " and ".join(f"{n} {what}" for n, what in ((tensor, "tensor"), (over, "replicas")) if n > 1)
    return f"{size} bytes a value" + (f", over {divided}" if divided else "")


def _time(
    job: Job, layout: Layout, count: Values, samples: Sequence[Tokens], micros: int, card: Card, per_node: int
) -> tuple[tuple[tuple[str, float], ...], float]:
    """Seconds of a step and where they go."""
    flops = _passes(job) * job.costs.flops(samples, layout.tensor) + job.costs.again(samples, layout.tensor)
    products = micros * flops / (_peak(card, layout) * PRODUCTS)
    whole, _ = job.plain.activations(samples, layout, job.network)
    kept, _ = job.costs.activations(samples, layout, job.network)
    repeated = 1 + (1 - kept / whole) / 3  # what is not kept is made once more; a forward pass is a third of it
    streamed = micros * TOUCHED * repeated * whole / (card.hbm * 1e12 * STREAMED)
    sent = job.costs.exchange(samples, layout) if layout.tensor > 1 else 0
    tensor = micros * sent / _bandwidth(card, layout.tensor, 1, per_node)
    moved = sum(
        (micros if one.each == "micro-batch" else 1) * _transfer(one, layout, count, card, per_node)
        for one in layout.transfers
    )
    held = count.trained * (layout.weight_bytes + layout.gradient_bytes) // layout.gradients_over
    held += 2 * count.trained * (layout.master_bytes + MOMENTS) // layout.optimizer_over
    held += 3 * len(job.shadows) * count.trained * layout.shadow_bytes // layout.shadows_over
    update = held / (HOST_UPDATE if layout.offload else card.hbm * 1e12 * STREAMED)
    if layout.offload:
        update += 2 * count.trained * layout.weight_bytes / layout.weights_over / HOST
    computing = products + streamed + tensor
    exposed = max(moved - computing, (1 - HIDDEN) * moved) if layout.overlap else moved
    parts = (
        ("products and attention", products),
        ("norms, gates and the like", streamed),
        ("tensor parallelism, all of it waited for", tensor),
        ("over replicas, waited for", exposed),
        ("over replicas, hidden", moved - exposed),
        ("update", update),
    )
    return tuple((name, spent) for name, spent in parts if spent), computing + exposed + update


def _transfer(one: Transfer, layout: Layout, count: Values, card: Card, per_node: int) -> float:
    """Seconds of all messages of a kind in one micro-batch or update."""
    own = count.trained + (count.frozen if one.of == "weights" else 0)
    size = one.times * own * one.itemsize / one.part
    rounds = 2 if one.kind == "all-reduce" else 1
    return rounds * size * (one.ranks - 1) / one.ranks / _bandwidth(card, one.ranks, one.stride, per_node)


def _bandwidth(card: Card, ranks: int, stride: int, per_node: int) -> float:
    """Bytes a second of a ring. Where it leaves the machine, its members there share their adapters: NCCL makes as many
    rings as there are adapters."""
    if (ranks - 1) * stride < per_node:
        return card.link * GB * LINKED
    together = max(1, min(ranks, per_node // stride))
    return min(card.link, card.net * together) * GB * LINKED


def tokens(side: int, scale: int, text: int, references: int) -> Tokens:
    """One picture of ``side`` squared pixels, and so many references of its size. Raises QiError if it has none."""
    across = round(side / scale)
    if across < 1:
        raise QiError(f"--pixels: {side} is less than one token of {scale} pixels; give {scale} or more")
    return Tokens(text=text, target=across**2, references=references * across**2)
