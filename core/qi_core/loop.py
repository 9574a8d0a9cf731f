"""The one loop of every stage: a batch, its loss, an update; what happens between steps is in ``chores``."""

from __future__ import annotations

import math
import signal
import statistics
import time
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from types import FrameType, TracebackType

import torch
from attrs import evolve

from qi_core import chores
from qi_core.asking import together
from qi_core.data import keys, listed
from qi_core.dealing import dealt, of_replicas, over_replicas
from qi_core.dice import Dice
from qi_core.errors import LostError, QiError
from qi_core.feed import Feed, Feeding, Ready
from qi_core.objective import Mean
from qi_core.orders import Cut, Ordered
from qi_core.parallel import Strategy
from qi_core.place import Closing
from qi_core.portions import Lost, Portion
from qi_core.producing import Encodable, joined
from qi_core.run import Run
from qi_core.source import OnPolicy
from qi_core.tracker import Ended, Notice, Start, StepDone
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
    # Those of before are in effect: the run was assembled with them.
    run.replay = run.strategy.team.send([change for change in run.ledger.read() if change.step >= run.step])
    parameters = sum(math.prod(run.held.shape(name)) for name in run.held.trained)
    run.tell(
        Start(folder=run.folder, step=run.step, steps=run.train.steps, parameters=parameters, notes=tuple(run.notes))
    )
    with closing(run), Signals() as signals, run.watch, feeding(run) as feed:
        run.feed = feed
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
            if heard or run.replay or run.step in run.pace.moves:
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
        skipped=dict(run.losses.counts + Counter(run.source.report())),  # after the feed's threads have ended
        summary=summary(run),
    )
    run.tell(ended)
    return ended


def feeding(run: Run) -> Feeding:
    """What the loop trains on from where the run stands."""
    replicas, replica = run.strategy.replicas, run.strategy.replica
    train = run.train
    if run.spec is None or run.engine is None:
        ahead = 0 if isinstance(run.source, OnPolicy) else train.prefetch
        return Feed(run.source, train.batch, ahead, replicas, replica, train.accumulate)
    run.engine.begin(run.spec)
    return Ordered(
        run.spec.maker.source,
        run.engine,
        spec=run.spec.digest,
        step=run.step,
        pace=run.pace,
        ahead=train.prefetch,
        cut=Cut(portion=run.data.portion, replicas=replicas, replica=replica, accumulate=train.accumulate),
        patience=run.data.patience,
    )


def step(run: Run, feed: Feeding) -> StepDone:
    """One update: data, encode, forward, backward, step."""
    watch = Times(run.watch)
    chores.follow(run)
    dice, models = Dice(run.train.seed, run.step), run.models
    if isinstance(feed, Ordered) and feed.begins and run.strategy.team.ranks > 1:
        # Producers start, and no rank hangs because another's take longer.
        run.watch.see("the first samples", run.data.patience + run.strategy.timeout)
        together(run.strategy.team, feed.wait)
    with watch("data", watched=not isinstance(run.source, OnPolicy)):  # rollouts take their time
        ready = feed.next()
    with watch("encode"):
        portions = encoded(run, ready)
    lost = agree_on_samples(run.strategy, ready, portions, run.step)
    mine = dealt(joined([portion.batch for portion in portions]), ready.total, ready.passes, ready.spare)
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
        norm = _update(run) if ready.total else 0.0  # rollouts may have nothing to teach: then nothing moves
    run.step += 1
    if told := run.losses.add(run.step, ready.total, lost):
        run.tell(Notice(step=run.step, text=told))
    run.position = ready.position
    loss_of_all, means = over_replicas(run.strategy, total, parts)
    return StepDone(
        step=run.step,
        loss=float(loss_of_all),
        lr=run.optimizer.rate(run.step - 1),
        grad_norm=norm,
        samples=ready.total,
        seconds=watch.seconds,
        parts=_shown(means) | _figures(run) | run.pace.figures(run.step - 1),
        left_out=_left_out(run.strategy, portions) if run.skipped_updates > skipped else (),
    )


def encoded(run: Run, ready: Ready) -> tuple[Portion, ...]:
    """Portions as the objective takes them, where they are not yet. Each is encoded by itself, here as elsewhere, so
    that it comes to the same numbers whoever does it."""
    if run.spec is None:
        return ready.portions
    maker = run.spec.maker
    found: list[Portion] = []
    for order, portion in zip(ready.orders, ready.portions, strict=True):
        if isinstance(batch := portion.batch, Encodable):
            # To where it is trained on, out of the buffer that it came in: joined before that, it would be copied here.
            found.append(evolve(portion, batch=batch.to(run.strategy.device)))
        else:
            found.append(maker.encoded(order, portion))
    return tuple(found)


def agree_on_samples(strategy: Strategy, ready: Ready, portions: Sequence[Portion], step: int) -> list[Lost]:
    """What all replicas together could not use.

    Raises LostError, on all ranks, if they have not all planned or drawn the same: a disk that failed one of them would
    leave it a sample ahead for ever, with some samples dealt twice and others to nobody.
    """
    own = [] if ready.spare else [lost for portion in portions for lost in portion.lost]
    if strategy.team.ranks == 1:
        return own
    told = [ready.digest, ready.digest**2, len(own)]
    total, squares, lost = strategy.sum(torch.tensor(told, dtype=torch.float64, device=strategy.device)).tolist()
    if strategy.replicas * squares != total**2:  # Cauchy-Schwarz: equal where all are (sums of integers, exact)
        raise LostError(
            f"step {step + 1}: the ranks have drawn different samples, perhaps since one could not read what others "
            "could; see to the disk, and go on from the last checkpoint with the same command"
        )
    return [one for each in of_replicas(strategy, own) for one in each] if lost else []


def _left_out(strategy: Strategy, portions: Sequence[Portion]) -> tuple[str, ...]:
    """Keys of the samples of all replicas."""
    own = [key for portion in portions for key in keys(portion.batch)]
    return tuple(dict.fromkeys(key for each in of_replicas(strategy, own) for key in each)) or ("unknown",)


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


def _figures(run: Run) -> dict[str, float]:
    """What the source and the engine tell of themselves."""
    found = dict(run.source.figures()) if isinstance(run.source, OnPolicy) else {}
    return found | (dict(run.engine.figures()) if run.engine is not None else {})


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
        stack.callback(run.close_sources)
        for part in (run.engine, run.encoders, run.store, *(item.evaluation for item in run.evaluations)):
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
