"""What is done between two steps: changes from outside, checkpoints, previews, evaluations."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from attrs import evolve

from qi_core import checkpoint
from qi_core.asking import Ask, led, together
from qi_core.dealing import deal, over_replicas
from qi_core.dice import Dice
from qi_core.encoder import Encoders
from qi_core.errors import QiError
from qi_core.evaluation import Evaluation, Validation
from qi_core.generate import Painter
from qi_core.objective import Loss, Mean
from qi_core.orders import Ordered
from qi_core.run import Effect, Run
from qi_core.settings import Preview
from qi_core.tracker import Change, Evaluated, Notice, Picture, Saved


def due(every: int, step: int, last: bool) -> bool:
    """Whether something done every so many steps (0: never but at the end) comes up."""
    return last or (every > 0 and step % every == 0)


def changes(run: Run) -> None:
    """What takes effect at this step: what the curriculum has for it, changes of the ledger whose turn has come, then
    those that are asked for now."""
    if run.scheduled is not None:
        _move(run, run.scheduled)
    while run.replay and run.replay[0].step <= run.step:
        change = run.replay.pop(0)
        together(run.strategy.team, partial(run.change, run, change.setting)).apply()
        run.tell(change)
    requests = list(run.channel.requests()) if run.main else []
    for number, setting in enumerate(run.strategy.team.send([request.setting for request in requests])):
        try:
            change, effect = _accept(run, setting)
        except QiError as error:
            if run.main:
                requests[number].answer(str(error), None)
            continue
        if change.step > run.step:
            effect.drop()  # it is found good once more when its turn comes
            run.replay = sorted([*run.replay, change], key=lambda each: each.step)
        else:
            effect.apply()
            run.tell(change)
        if run.main:
            requests[number].answer("taken", change.step)


def _accept(run: Run, setting: str) -> tuple[Change, Effect]:
    """Checked by all ranks, then fenced at a step and on rank 0 written down. Raises QiError, and nothing has
    changed."""
    team = run.strategy.team
    effect = together(team, lambda: run.change(run, run.resolve(setting, run.step)))
    drained = run.feed if effect.data and run.data.fence == "drain" and isinstance(run.feed, Ordered) else None
    try:
        step = drained.fence(run.step) if drained else run.step
        change = Change(step=step, setting=run.resolve(setting, step))
        together(team, lambda: run.ledger.append(change) if run.main else None)
    except QiError:
        effect.drop()
        raise
    if drained:
        drained.hold(step)
    return change, effect


def _move(run: Run, scheduled: Callable[[Run], Effect]) -> None:
    """Lines of the curriculum that begin to hold."""
    together(run.strategy.team, partial(scheduled, run)).apply()
    if isinstance(run.feed, Ordered):
        run.feed.clear(run.step)
    if told := run.pace.begins(run.step):
        run.tell(Notice(step=run.step, text=told))


def follow(run: Run) -> None:
    """The learning rate and the shift of times that the curriculum has for this step."""
    state = run.pace.state(run.step)
    if state is None:
        return
    run.optimizer.lr = run.peak * state.lr
    objective: Any = run.objective
    if state.shift is not None and getattr(objective, "shift", state.shift) != state.shift:
        run.objective = evolve(objective, shift=state.shift)


def save(run: Run, last: bool) -> None:
    """A checkpoint, if it is due. The store may still be writing it afterwards; it is told once it is whole."""
    _tell_saved(run)
    if not due(run.train.save_every, run.step, last):
        return
    began = time.perf_counter()
    finish_save(run)
    path = run.store.save(checkpoint.take(run))
    run.saved = run.step
    run.saving = Saved(step=run.step, path=path, seconds=0.0, stall=time.perf_counter() - began)
    _tell_saved(run)


def finish_save(run: Run) -> None:
    """Wait until the last checkpoint is whole. Raises QiError if it can't be."""
    run.store.wait()
    _tell_saved(run)


def _tell_saved(run: Run) -> None:
    """Tell trackers of a checkpoint that is whole by now."""
    seconds = run.store.took()
    if run.saving is not None and seconds is not None:
        run.tell(evolve(run.saving, seconds=seconds))
        run.saving = None


def refuse_preview(preview: Preview, encoders: Encoders) -> None:
    """Raises QiError if pictures are to be drawn of a size that the autoencoder cannot have."""
    if preview.every and preview.prompts:
        try:
            encoders.grid(preview.height, preview.width)
        except QiError as error:
            raise QiError(f"preview: {error}") from error


def preview(run: Run, last: bool) -> None:
    """A grid of pictures, if it is due."""
    settings = run.preview
    if not settings.every or not settings.prompts or not due(settings.every, run.step, last):
        return
    sizes = [(settings.height, settings.width)] * len(settings.prompts)

    def painted(painter: Painter) -> Evaluated:
        pictures = zip(painter.paint(settings.prompts, sizes), settings.prompts, strict=True)
        shown = tuple(Picture(image=image, caption=prompt) for image, prompt in pictures)
        return Evaluated(step=run.step, name="preview", pictures=shown)

    _paint(run, painted)


def evaluate(run: Run, last: bool) -> None:
    """Every evaluation that is due. They run on rank 0: pictures are judged once, and files written once. All ranks
    paint for them, and compute losses."""
    for item in run.evaluations:
        if not due(item.every, run.step, last):
            continue
        if run.strategy.team.send(isinstance(item.evaluation, Validation)):
            jobs = {"loss": partial(objective_loss, run)}
            led(run.strategy.team, jobs, partial(_validate, run, item.evaluation))
            run.encoders.rest()
        else:
            _paint(run, partial(_evaluate, run, item.evaluation))


def _validate(run: Run, evaluation: object, ask: Ask) -> None:
    assert isinstance(evaluation, Validation)
    _publish(run, evaluation.validate(partial(ask, "loss"), run.step))


def _evaluate(run: Run, evaluation: Evaluation | Validation | None, painter: Painter) -> Evaluated:
    assert not isinstance(evaluation, Validation)
    assert evaluation is not None
    return evaluation.evaluate(painter, run.step)


def _paint(run: Run, work: Callable[[Painter], Evaluated]) -> None:
    """What rank 0 makes of pictures that all ranks paint."""
    with run.painter() as painter:
        led(
            run.strategy.team,
            {"paint": painter.paint},
            lambda ask: _publish(run, work(evolve(painter, asks=partial(ask, "paint")))),
        )
    run.encoders.rest()


@torch.no_grad()
def objective_loss(run: Run, batch: Any, dice: Dice) -> Loss:
    """What the run's objective says of a batch that is not trained on."""
    training = run.model.training
    run.model.eval()

    def computed() -> tuple[Loss, float]:
        ((mine, share),) = deal(batch, run.strategy.replicas, run.strategy.replica, 1)
        with run.strategy.autocast():
            return run.objective.loss(run.model, run.objective.prepare(mine, run.models, dice), dice), share

    try:
        loss, share = together(run.strategy.team, computed)
    finally:
        run.model.train(training)
    parts = loss.parts if share else {name: Mean(0 * m.total, 0 * m.count) for name, m in loss.parts.items()}
    value, whole = over_replicas(run.strategy, loss.value * share, parts)
    return Loss(value=value, parts=whole)


def refuse_validation(run: Run) -> None:
    """Raises QiError if an evaluation has data that the objective does not take."""
    for item in run.evaluations:
        asked = item.evaluation
        if isinstance(asked, Validation) and not issubclass(asked.gives, run.objective.takes):
            raise QiError(
                f"evaluation: {type(asked).__name__} asks about {asked.gives.__name__}, but the objective takes "
                f"{run.objective.takes.__name__}; give it another source"
            )


def _publish(run: Run, found: Evaluated) -> None:
    """Write the picture grid, remember the result, tell the trackers."""
    if found.pictures:
        from qi_core.pictures import picture_grid, save_png

        folder = run.folder / "pictures"
        folder.mkdir(exist_ok=True)
        path = folder / f"{found.name}-{found.step:07d}.png"
        save_png(picture_grid(found.pictures), path)
        found = evolve(found, path=path)
    run.results[found.name] = found
    run.tell(found)
