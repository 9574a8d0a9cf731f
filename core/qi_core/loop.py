"""The one loop of every stage: a batch, its loss, an update; what happens between steps is in ``chores``."""

from __future__ import annotations

import math
import signal
import statistics
import time
import zlib
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from types import FrameType, TracebackType

import torch

from qi_core import chores
from qi_core.data import Batch, keys, listed
from qi_core.dealing import deal, over_replicas
from qi_core.dice import Dice
from qi_core.errors import LostError, QiError
from qi_core.feed import Feed
from qi_core.objective import Mean
from qi_core.parallel import Strategy
from qi_core.place import Closing
from qi_core.run import Run
from qi_core.source import OnPolicy
from qi_core.tracker import Ended, Start, StepDone
from qi_core.watch import Watch

PATIENCE = 20
"""Updates in a row with gradients that cannot be used, before the run gives up."""
USUAL = 50
"""Updates over which the usual gradient norm is taken."""
FEWEST = 10
"""Updates before anything counts as usual."""


def train(run: Run) -> Ended:
    """Train until the recipe's last step or a signal. SIGINT and SIGTERM end the step at hand, save and return.

    Raises QiError when nothing usable can be drawn, saved or learned.
    """
    began = time.perf_counter()
    run.replay = run.strategy.team.send(run.ledger.read())
    parameters = sum(math.prod(run.held.shape(name)) for name in run.held.trained)
    run.tell(
        Start(folder=run.folder, step=run.step, steps=run.train.steps, parameters=parameters, notes=tuple(run.notes))
    )
    ahead = 0 if isinstance(run.source, OnPolicy) else run.train.prefetch
    with closing(run), Signals() as signals, run.watch, Feed(run.source, run.train.batch, ahead) as feed:
        chores.changes(run)
        if run.step == 0 and run.train.evaluate_first:
            chores.evaluate(run, last=True)
            chores.preview(run, last=True)
        bad, stop = 0, ""
        while run.step < run.train.steps and not stop:
            done = step(run, feed)
            bad = bad + 1 if done.left_out else 0
            run.tell(done)
            if bad == PATIENCE:
                raise QiError(
                    f"step {run.step}: {bad} updates in a row were left out, the last with a gradient norm of "
                    f"{done.grad_norm:.3g} from the samples {listed(done.left_out)}; lower the learning rate or look "
                    "at the samples, and go on from the last checkpoint"
                )
            stop, heard = agree(run, signals)
            if heard or run.replay:
                chores.changes(run)
            run.watch.rest()
            last = run.step == run.train.steps
            chores.save(run, last)  # first, for an evaluation or a preview that fails ends the run
            if last or not stop:  # who stops a run may not wait for them
                chores.evaluate(run, last)
                chores.preview(run, last)
            stop = stop or (signals.name if run.strategy.team.ranks == 1 else "")
        if run.saved != run.step:  # a signal ended the run between two saves
            chores.save(run, last=True)
        chores.finish_save(run)
    ended = Ended(
        step=run.step,
        reason=stop or "done",
        seconds=time.perf_counter() - began,
        skipped=run.source.report(),  # after the feed's thread has ended: it counts too
        summary=summary(run),
    )
    run.tell(ended)
    return ended


def step(run: Run, feed: Feed) -> StepDone:
    """One update: data, encode, forward, backward, step."""
    watch = Times(run.watch)
    dice, models = Dice(run.train.seed, run.step), run.models
    with watch("data", watched=not isinstance(run.source, OnPolicy)):  # rollouts take their time
        ready = feed.next()
        refuse_different(run.strategy, ready.batch, run.step)
        mine = deal(ready.batch, run.strategy.replicas, run.strategy.replica, run.train.accumulate)
    total = torch.zeros((), device=run.strategy.device)
    parts: dict[str, Mean] = {}
    for number, (micro, share) in enumerate(mine, 1):
        with run.strategy.autocast():
            with watch("encode"), torch.no_grad():
                prepared = run.objective.prepare(micro, models, dice)
            with watch("forward"):
                loss = run.objective.loss(run.model, prepared, dice)
        with watch("backward"):
            run.strategy.backward(loss.value * share, last=number == len(mine))
        total += loss.value.detach() * share
        for name, mean in loss.parts.items():
            counted = mean if share else Mean(torch.zeros_like(mean.total), torch.zeros_like(mean.count))
            parts[name] = parts[name].merged(counted) if name in parts else counted
    skipped = run.skipped_updates
    with watch("step"):
        norm = _update(run) if len(ready.batch) else 0.0  # rollouts may have nothing to teach: then nothing moves
    run.step += 1
    run.position = ready.position
    loss_of_all, means = over_replicas(run.strategy, total, parts)
    return StepDone(
        step=run.step,
        loss=float(loss_of_all),
        lr=run.optimizer.rate(run.step - 1),
        grad_norm=norm,
        samples=len(ready.batch),
        seconds=watch.seconds,
        parts=_shown(means) | (dict(run.source.figures()) if isinstance(run.source, OnPolicy) else {}),
        left_out=(keys(ready.batch) or ("unknown",)) if run.skipped_updates > skipped else (),
    )


def refuse_different(strategy: Strategy, batch: Batch, step: int) -> None:
    """Raises LostError, on all ranks, if they have not all drawn the same: a disk that failed one of them would leave
    it a sample ahead for ever, with some samples dealt twice and others to nobody."""
    if strategy.team.ranks == 1:
        return
    told = zlib.crc32(repr((keys(batch), tuple(batch.costs))).encode()) % (1 << 16)
    mine = torch.tensor([told, told**2], dtype=torch.float64, device=strategy.device)  # sums of integers, exact
    total, squares = strategy.sum(mine).tolist()
    if strategy.replicas * squares != total**2:  # Cauchy-Schwarz: equal where all are
        raise LostError(
            f"step {step + 1}: the ranks have drawn different samples, perhaps since one could not read what others "
            "could; see to the disk, and go on from the last checkpoint with the same command"
        )


def _update(run: Run) -> float:
    """Clip, update, let the shadows follow. An update whose gradients are not finite, or far larger than is usual, is
    left out and counted."""
    norm = run.strategy.clip(run.model.parameters(), run.train.clip)
    if not math.isfinite(norm) or _is_spike(run, norm):
        run.skipped_updates += 1
        run.held.clear()
        return norm
    run.norms = [*run.norms, norm][-USUAL:] if run.train.spike else []
    run.optimizer.step(run.step)
    for shadow in run.shadows.values():
        shadow.update()
    return norm


def _is_spike(run: Run, norm: float) -> bool:
    usual = statistics.median(run.norms) if len(run.norms) >= FEWEST else 0.0
    return run.train.spike > 0 and usual > 0 and norm > run.train.spike * usual


def _shown(means: Mapping[str, Mean]) -> dict[str, float]:
    """Numbers; a part that no sample fell into is left out."""
    if not means:
        return {}
    totals, counts = (torch.stack(each) for each in zip(*((m.total, m.count) for m in means.values()), strict=True))
    shown = zip(means, (totals / counts).tolist(), strict=True)
    return {name: mean for name, mean in shown if not math.isnan(mean)}


def agree(run: Run, signals: Signals) -> tuple[str, bool]:
    """The signal that some rank has got, and whether somebody asks for a change: the same on all ranks."""
    waiting = run.main and run.channel.waiting()
    told = torch.tensor([signals.name == "SIGTERM", signals.name == "SIGINT", waiting], dtype=torch.float32)
    terminated, interrupted, heard = run.strategy.sum(told.to(run.strategy.device)).tolist()
    return "SIGINT" if interrupted else "SIGTERM" if terminated else "", heard > 0


def summary(run: Run) -> tuple[str, ...]:
    """What to print last: the figures of each last evaluation and where its pictures are."""
    lines: list[str] = []
    for found in run.results.values():
        figures = ", ".join(f"{name} {value:.4g}" for name, value in found.scalars.items())
        lines.append(f"{found.name} (step {found.step}): {figures}" if figures else f"{found.name} (step {found.step})")
        if found.path:
            lines[-1] += f"  {found.path}"
    if run.skipped_updates:
        why = "not finite, or far larger than usual" if run.train.spike else "not finite"
        lines.append(f"{run.skipped_updates} updates were left out: their gradients were {why}")
    return tuple(lines)


@contextmanager
def closing(run: Run) -> Generator[None]:
    """Afterwards, whatever happened, parts that hold threads or connections let go of them."""
    with ExitStack() as stack:  # one that fails to close keeps none of the others open
        for part in (run.source, run.store, *(item.evaluation for item in run.evaluations)):
            if isinstance(part, Closing):
                stack.callback(part.close)
        yield


class Times:
    """Where the time of a step went, and that it goes on."""

    def __init__(self, watch: Watch) -> None:
        self.seconds: dict[str, float] = {}
        self._watch = watch

    @contextmanager
    def __call__(self, name: str, watched: bool = True) -> Generator[None]:
        if watched:
            self._watch.see(name)
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began


class Signals:
    """SIGINT and SIGTERM are remembered, so that the step at hand ends; a second SIGINT ends it at once."""

    def __init__(self) -> None:
        self.name = ""

    def __enter__(self) -> Signals:
        self._before = {s: signal.signal(s, self._remember) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.name == "SIGINT" == signal.Signals(number).name:
            raise KeyboardInterrupt
        self.name = signal.Signals(number).name
