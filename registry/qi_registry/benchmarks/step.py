"""A training step, measured: what the forward pass keeps, the most that is held, and the time."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from attrs import evolve, field, frozen
from torch.profiler import ProfilerActivity, profile

from qi_core.data import Condition, Latents
from qi_core.dice import Dice
from qi_core.encoded import Examples
from qi_core.place import Place

if TYPE_CHECKING:
    from qi_core.denoiser import DenoiserComponent, DenoiserModule
    from qi_core.objective import Objective
    from qi_core.optimizer import Optimizer, OptimizerComponent
    from qi_core.parallel import Strategy

CHANNELS, TEXT_WIDTH = 64, 3584
"""Of the released model."""
CAPTIONS = (64, 200, 128, 256)
WARM_UP = 2
COUNTED = {
    "cuda": "Memory is what torch's CUDA allocator handed out.",
    "cpu": "Memory is what torch's CPU allocator handed out, as its profiler counts; time is the process's own.",
}
T = TypeVar("T")


@frozen(kw_only=True)
class Workload:
    """A batch, by its shapes."""

    pixels: int
    images: int
    scale: int

    @property
    def captions(self) -> tuple[int, ...]:
        return tuple(CAPTIONS[i % len(CAPTIONS)] for i in range(self.images))

    @property
    def side(self) -> int:
        return self.pixels // self.scale

    def batch(self, device: torch.device) -> Examples:
        """Random latents and captions."""
        generator = torch.Generator().manual_seed(0)
        tokens = torch.randn(self.images * self.side**2, CHANNELS, generator=generator)
        text = torch.randn(sum(self.captions), TEXT_WIDTH, generator=generator)
        return Examples(
            latents=Latents(tokens=tokens.to(device), grids=((1, self.side, self.side),) * self.images),
            condition=Condition(text=text.to(device), lengths=self.captions),
            slots=tuple(range(self.images)),
            keys=("",) * self.images,
        )


@frozen(kw_only=True)
class Figures:
    """Of one network."""

    tokens: int
    """Of pictures and captions."""
    device: str
    precision: str
    counted: str
    """How memory was."""
    kept: int = 0
    """Bytes that a forward pass leaves for the backward pass."""
    peak: int = 0
    """The most that is held in a step, bytes."""
    seconds: float | None = None
    """None: there was too little memory."""


@frozen(kw_only=True, eq=False)
class _Side:
    """One of the networks, which share their weights."""

    model: DenoiserModule
    strategy: Strategy
    objective: Objective[Any]
    optimizer: Optimizer
    examples: Examples
    seconds: list[float] = field(factory=list)

    def forward(self) -> torch.Tensor:
        with self.strategy.autocast():
            return self.objective.loss(self.model, self.examples, Dice(0, 0)).value

    def rest(self, loss: torch.Tensor) -> None:
        self.strategy.backward(loss)
        self.strategy.clip(self.model.parameters(), 1.0)
        self.optimizer.step(0)

    def timed(self) -> None:
        device = self.strategy.device
        began = _now(device)
        self.rest(self.forward())
        self.seconds.append(_now(device) - began)

    def memory(self) -> tuple[int, int]:
        """(kept, peak) in bytes; ``peak`` with what is there between steps."""
        device = self.strategy.device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            before = torch.cuda.memory_allocated(device)
            loss = self.forward()
            kept = torch.cuda.memory_allocated(device) - before
            self.rest(loss)
            return kept, torch.cuda.max_memory_allocated(device)
        there = (*self.model.parameters(), *self.optimizer.tensors().values())
        kept, first, loss = _allocated(self.forward)
        _, second, _ = _allocated(lambda: self.rest(loss))
        return kept, sum(tensor.nbytes for tensor in there) + max(first, kept + second)


def measure(
    components: Sequence[DenoiserComponent],
    strategy: Strategy,
    objective: Objective[Any],
    optimizer: OptimizerComponent,
    workload: Workload,
    rounds: int,
) -> list[Figures]:
    """Of networks that share their weights and take turns, so that a neighbour on the machine disturbs all of them."""
    device = strategy.device
    examples = workload.batch(device)
    with tempfile.TemporaryDirectory() as folder:
        models = _sharing(components, strategy, Path(folder))
    live = optimizer.build(models[0], 1000)
    sides = [_Side(model=m, strategy=strategy, objective=objective, optimizer=live, examples=examples) for m in models]
    fits = [True] * len(sides)
    for number in range(-WARM_UP, rounds):
        for index, side in enumerate(sides):
            fits[index] = fits[index] and _fits(side)
            if number < 0:
                side.seconds.clear()
    figures = Figures(
        tokens=len(examples.latents.tokens) + len(examples.condition.text),
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        precision="bfloat16 products" if strategy.dtype == torch.bfloat16 else "float32",
        counted=COUNTED[device.type],
    )
    return [_filled(figures, side) if fit else figures for side, fit in zip(sides, fits, strict=True)]


def _filled(figures: Figures, side: _Side) -> Figures:
    kept, peak = side.memory()
    return evolve(figures, kept=kept, peak=peak, seconds=statistics.median(side.seconds))


def _sharing(components: Sequence[DenoiserComponent], strategy: Strategy, folder: Path) -> list[DenoiserModule]:
    """Networks that differ in settings alone, with one set of weights."""
    place = Place(device=strategy.device, dtype=strategy.dtype, seed=0, folder=folder)
    first, *others = components
    models = [strategy.place(first.build(place, CHANNELS, TEXT_WIDTH))]
    for component in others:
        model = component.build(evolve(place, reserve=torch.float32), CHANNELS, TEXT_WIDTH)
        model.load_state_dict(models[0].state_dict(keep_vars=True), assign=True)
        models.append(strategy.place(model))
    return models


def _fits(side: _Side) -> bool:
    """One step, if there is memory for it."""
    try:
        side.timed()
    except torch.OutOfMemoryError:
        side.model.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()
        return False
    return True


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time()


def _allocated(work: Callable[[], T]) -> tuple[int, int, T]:
    """Bytes more than before afterwards, the most meanwhile, and what the work gave; on a CPU."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        result = work()
    kineto = profiled.profiler
    assert kineto is not None
    assert kineto.kineto_results is not None
    events: list[Any] = kineto.kineto_results.events()
    changes = (event.nbytes() for event in events if event.name() == "[memory]")
    held = list(accumulate(changes, initial=0))
    return held[-1], max(held), result
