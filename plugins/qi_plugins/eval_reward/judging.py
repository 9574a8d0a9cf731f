"""The live evaluation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from qi_core import Candidate, Evaluated, Painter, Picture, Place, Reward, Sample, Scores
from qi_core.generate import eight_bits
from qi_core.scoring import Scorer, verdict
from qi_plugins.eval_reward.baseline import Baseline
from qi_plugins.eval_reward.component import RewardEvaluation

Values = tuple[float | None, ...]
UNFIT = "values that are no numbers"


class JudgingEvaluation:
    """A live ``reward``."""

    def __init__(
        self, settings: RewardEvaluation, tasks: Sequence[Sample], rewards: Mapping[str, Reward], baseline: Baseline
    ) -> None:
        self._settings, self._tasks, self._rewards, self._baseline = settings, tasks, rewards, baseline
        self._scorer: Scorer | None = None

    def evaluate(self, painter: Painter, step: int) -> Evaluated:
        """See ``Evaluation.evaluate``."""
        images = painter.paint(
            [task.prompt for task in self._tasks],
            [(task.image.shape[1], task.image.shape[2]) for task in self._tasks],
            [task.references for task in self._tasks] if any(task.references for task in self._tasks) else (),
            whole=True,
        )
        scores, reasons = self._judged(images)
        totals = self._totals(scores)
        before = self._baseline.compared(step, totals)
        wins = {} if before is None else {"wins": share_of_wins(before, totals)}
        shown = range(min(self._settings.shown, len(images)))
        return Evaluated(
            step=step,
            name=self._settings.title,
            scalars={
                **self._figures(scores, totals),
                **{f"masked/{reason}": count / len(images) for reason, count in reasons.items()},
                **{name: value for name, value in wins.items() if value is not None},
            },
            pictures=tuple(
                Picture(image=images[i].nan_to_num().clamp(-1, 1), caption=self._caption(i, scores)) for i in shown
            ),
        )

    def close(self) -> None:
        """See ``qi_core.place.Closing``. Rewards were built, and are closed, whether or not anything was judged."""
        self._scorer = self._scorer or Scorer(self._rewards)
        self._scorer.close()

    def _judged(self, images: Sequence[Tensor]) -> tuple[dict[str, Values], dict[str, int]]:
        """By reward, a value a prompt; and why values are missing, counted."""
        self._scorer = self._scorer or Scorer(self._rewards)
        places: list[int] = []
        candidates: list[Candidate] = []
        for i, (task, image) in enumerate(zip(self._tasks, images, strict=True)):
            pixels = eight_bits(image)
            if pixels is not None:
                name = f"{self._settings.title}/{i}/{task.key}"
                places.append(i)
                candidates.append(
                    Candidate(
                        key=name,
                        group=name,
                        prompt=task.prompt,
                        image=pixels,
                        text=task.text,
                        references=task.references,
                    )
                )
        found: dict[str, Scores] = verdict(self._scorer.submit(candidates))
        told = {name: dict(zip(places, scores.values, strict=True)) for name, scores in found.items()}
        reasons = {f"{name}/{why}": n for name, scores in found.items() for why, n in scores.failures.items()}
        if unfit := len(images) - len(places):
            reasons[UNFIT] = unfit
        return {name: tuple(values.get(i) for i in range(len(images))) for name, values in told.items()}, reasons

    def _totals(self, scores: Mapping[str, Values]) -> Values:
        """The weighted sum of each; None where a reward that counts could not tell."""
        weights = {judge.name: judge.weight for judge in self._settings.rewards if judge.weight}
        totals: list[float | None] = []
        for i in range(len(self._tasks)):
            values = [scores[name][i] for name in weights]
            known = [
                weight * value for weight, value in zip(weights.values(), values, strict=True) if value is not None
            ]
            totals.append(math.fsum(known) if len(known) == len(values) else None)
        return tuple(totals)

    def _figures(self, scores: Mapping[str, Values], totals: Values) -> dict[str, float]:
        figures = {"masked": totals.count(None) / len(totals)}
        if (reward := mean(totals)) is not None:
            figures = {"reward": reward, **figures}
        for judge in self._settings.rewards:
            value = mean(scores[judge.name])
            if value is not None and (len(scores) > 1 or not judge.weight):
                figures[f"{'reward' if judge.weight else 'watched'}/{judge.name}"] = value
        return figures

    def _caption(self, i: int, scores: Mapping[str, Values]) -> str:
        told = [f"{name} {show(values[i])}" if len(scores) > 1 else show(values[i]) for name, values in scores.items()]
        return f"{', '.join(told)}: {self._tasks[i].prompt}"


def first_scores(settings: RewardEvaluation, place: Place, tasks: Sequence[Sample]) -> Baseline:
    """Where the scores are that later ones are compared with. Raises QiError if they are of other pictures."""
    own = settings.against is None
    folder = (place.folder if settings.against is None else settings.against.expanduser()) / settings.BASELINES
    baseline = Baseline(
        path=folder / f"{settings.title}.json",
        own=own,
        asked={
            "prompts": [task.prompt for task in tasks],
            "rewards": {judge.name: judge.weight for judge in settings.rewards},
        },
    )
    baseline.refuse_others()
    return baseline


def share_of_wins(before: Values, after: Values) -> float | None:
    """Over the prompts that were judged both times; a tie is half a win. None if there are none."""
    both = [(b, a) for b, a in zip(before, after, strict=True) if b is not None and a is not None]
    return mean([0.5 if a == b else float(a > b) for b, a in both])


def mean(values: Sequence[float | None]) -> float | None:
    """Of those that are known; None if none is."""
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def show(value: float | None) -> str:
    return "?" if value is None else f"{value:.3g}"
