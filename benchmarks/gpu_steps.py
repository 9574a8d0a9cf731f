"""Training steps of the MMDiT on a card, in every way that it can be trained there, and what `qi plan` foretold.

Part of gpu.py. A step is what a run does once pictures and captions are encoded: noise and times drawn, forward, loss
and backward, clip, AdamW; products in bfloat16. Captions of 64 to 256 tokens stand in one batch, packed.
"""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from attrs import evolve, field, frozen
from card import CAPTIONS, CHANNELS, SCALE, TEXT_WIDTH, fresh_memory, most_memory, seconds

from qi_core import Condition, DenoiserModule, Dice, Examples, Latents, Place, QiError, Strategy
from qi_core.parallel import ParallelComponent
from qi_core.planning import Laid, Tokens
from qi_plugins.mmdit.component import MMDiT
from qi_plugins.mmdit.cost import training_flops
from qi_plugins.objective_flow.flow_matching import FlowMatching
from qi_plugins.optimizer_adamw.component import AdamW
from qi_plugins.parallel_single.component import Single
from qi_registry.planning.cards import CARDS
from qi_registry.planning.estimate import RESERVE, Job, estimate


@frozen(kw_only=True)
class Way:
    """How to train."""

    name: str
    parallel: ParallelComponent
    change: dict[str, Any] = field(factory=dict)
    """Settings of the network."""


@frozen(kw_only=True)
class Step:
    """One training workload."""

    way: str
    pixels: int
    pictures: int
    tokens: int
    """Image and text tokens of the batch."""
    teraflop: float
    """Counted for one picture."""
    seconds: float | None = None
    """Median of a step; None: the card has too little memory."""
    images_per_second: float | None = None
    teraflops: float | None = None
    mfu: float | None = None
    memory: float | None = None
    """Most that was ever held, GiB."""
    planned: float | None = None
    """What `qi plan` says of it, without what it assumes for CUDA itself, GiB."""


@frozen(kw_only=True, eq=False)
class Batch:
    """Pictures of one size and their captions."""

    pixels: int
    examples: Examples
    sizes: tuple[Tokens, ...]

    @staticmethod
    def of(pixels: int, tokens: int, device: torch.device) -> Batch:
        """As many as make ``tokens`` image tokens, one at least."""
        side = pixels // SCALE
        pictures = max(1, tokens // side**2)
        sizes = tuple(Tokens(text=CAPTIONS[i % len(CAPTIONS)], target=side * side) for i in range(pictures))
        lengths = tuple(s.text for s in sizes)
        examples = Examples(
            latents=Latents(
                tokens=torch.randn(pictures * side * side, CHANNELS, device=device),
                grids=((1, side, side),) * pictures,
            ),
            condition=Condition(text=torch.randn(sum(lengths), TEXT_WIDTH, device=device), lengths=lengths),
            slots=tuple(range(pictures)),
            keys=("",) * pictures,
        )
        return Batch(pixels=pixels, examples=examples, sizes=sizes)

    def row(self, way: str, settings: MMDiT, took: float | None, device: torch.device, peak: float) -> Step:
        """What came out."""
        arch, pictures = settings.architecture(CHANNELS, TEXT_WIDTH), len(self.sizes)
        flop = training_flops(arch, self.sizes)
        speed = flop / took / 1e12 if took else None
        return Step(
            way=way,
            pixels=self.pixels,
            pictures=pictures,
            tokens=sum(s.text + s.target for s in self.sizes),
            teraflop=flop / pictures / 1e12,
            seconds=took,
            images_per_second=pictures / took if took else None,
            teraflops=speed,
            mfu=speed / peak if speed and peak else None,
            memory=most_memory(device) if took else None,
        )


class Learner:
    """A model with its optimizer."""

    def __init__(self, settings: MMDiT, strategy: Strategy, place: Place) -> None:
        self.strategy = strategy
        self.model: DenoiserModule = strategy.place(filled(settings, place))
        self.optimizer = AdamW(lr=1e-5).build(self.model, 100_000, strategy.held(self.model))
        self._objective, self._done = FlowMatching(), 0

    def step(self, examples: Examples) -> None:
        """One update."""
        with self.strategy.autocast():
            loss = self._objective.loss(self.model, examples, Dice(0, self._done))
        self.strategy.backward(loss.value)
        self.strategy.clip(self.model.parameters(), 1.0)
        self.optimizer.step(self._done)
        self._done += 1


def filled(settings: MMDiT, place: Place) -> DenoiserModule:
    """Random weights, drawn where they are: the numbers say nothing, and billions of them take long on the CPU."""
    model = settings.build(evolve(place, reserve=torch.float32), CHANNELS, TEXT_WIDTH)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.02) if parameter.ndim > 1 else parameter.fill_(1.0)
    return model


def ways(device: str, *, compiled: bool) -> list[Way]:
    """Torch's attention first, one call for each run of equally long samples; then what can be had better."""
    single = Single(device=device, precision="bf16")
    found = [
        Way(name="qi, sdpa", parallel=single, change={"attention": "sdpa"}),
        Way(name="qi, auto", parallel=single),
        Way(name="qi, selective", parallel=single, change={"checkpointing": "selective"}),
    ]
    if compiled:
        found.append(Way(name="qi, compiled", parallel=evolve(single, compile=True)))
    if device != "cpu" and find_spec("megatron") and find_spec("transformer_engine"):
        from qi_plugins.parallel_megatron.component import Megatron

        found.append(Way(name="qi, megatron, te", parallel=Megatron(device="cuda", precision="bf16", engine="te")))
    return found


def train(way: Way, settings: MMDiT, pixels: Sequence[int], tokens: int, rounds: int, peak: float) -> Iterator[Step]:
    """Every size on one model, largest last, so that an overflow of memory spoils nothing before it."""
    own = evolve(settings, **way.change)
    strategy = way.parallel.build()
    with living(own, strategy) as learner:
        for size in sorted(pixels):
            batch = Batch.of(size, tokens, strategy.device)
            fresh_memory(strategy.device)
            took = seconds(lambda batch=batch: learner.step(batch.examples), strategy.device, rounds)  # type: ignore[misc]
            learner.model.zero_grad(set_to_none=True)
            row = batch.row(way.name, own, took, strategy.device, peak)
            yield evolve(row, planned=planned(own, way.parallel, batch.sizes))


@contextmanager
def living(settings: MMDiT, strategy: Strategy) -> Iterator[Learner]:
    """A model, and its memory back afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        place = Place(device=strategy.device, dtype=strategy.dtype, seed=0, folder=Path(folder))
        learner = Learner(settings, strategy, place)
        try:
            yield learner
        finally:
            learner.__dict__.clear()
            gc.collect()
            fresh_memory(strategy.device)


def planned(settings: MMDiT, parallel: ParallelComponent, sizes: tuple[Tokens, ...]) -> float | None:
    """GiB that the plan tells of one step; None where a strategy cannot say how it lays a model out."""
    if not isinstance(parallel, Laid):
        return None
    costs = settings.costs(CHANNELS, TEXT_WIDTH)
    network = costs.network()
    job = Job(
        costs=costs,
        plain=evolve(settings, checkpointing="none").costs(CHANNELS, TEXT_WIDTH),
        network=network,
        sharding=network.sharding(),
        adapted=False,
        sample=sizes,
        batch=1,
        shadows=(),
        asked=0,
        encoders=0,
    )
    return (estimate(job, parallel.layout(1), CARDS[0], 8, 1).peak - RESERVE) / 2**30


def profiled(
    settings: MMDiT, device: str, pixels: int, tokens: int, top: int = 10
) -> list[tuple[str, int, float, float]]:
    """(operation, calls, milliseconds, share) of those that took most of a step."""
    from torch.profiler import ProfilerActivity, profile

    strategy = Single(device=device, precision="bf16").build()
    cuda = strategy.device.type == "cuda"
    batch = Batch.of(pixels, tokens, strategy.device)
    with living(settings, strategy) as learner:
        for _ in range(3):
            learner.step(batch.examples)
        kinds = [ProfilerActivity.CPU, ProfilerActivity.CUDA] if cuda else [ProfilerActivity.CPU]
        with profile(activities=kinds) as found:
            learner.step(batch.examples)
            if cuda:
                torch.cuda.synchronize(strategy.device)

    def spent(event: Any) -> float:
        """Microseconds of its own. On a card, of kernels alone: what called them names the same time again."""
        if cuda:
            return float(event.self_device_time_total) if event.device_type.name == "CUDA" else 0.0
        return float(event.self_cpu_time_total)

    events = sorted(found.key_averages(), key=spent, reverse=True)
    total = sum(map(spent, events)) or 1.0
    return [(event.key, event.count, spent(event) / 1e3, spent(event) / total) for event in events[:top]]


def attempt(steps: Callable[[], Iterator[Step]], name: str, rows: list[Step], notes: list[str]) -> None:
    """Rows as they come, so that what fails spoils nothing before it; the reason is told."""
    try:
        rows.extend(steps())
    except torch.OutOfMemoryError:
        notes.append(f"{name}: no memory for the model")
        gc.collect()
        torch.cuda.empty_cache()
    except QiError as error:
        notes.append(f"{name}: {error}")
