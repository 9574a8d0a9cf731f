"""``check_reward`` finds whoever breaks the contract."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import ClassVar

import pytest
from attrs import frozen

from qi_core import Candidate, Place, Scores
from qi_core.testing import check_reward
from qi_core.testing.rewards import some_candidates

Rule = Callable[[Sequence[Candidate]], Scores]


@frozen
class Live:
    rule: Rule

    async def score(self, candidates: Sequence[Candidate]) -> Scores:
        return self.rule(candidates)

    async def close(self) -> None: ...


@frozen(kw_only=True)
class Pointwise:
    groupwise: ClassVar[bool] = False
    rule: Rule

    def build(self, place: Place) -> Live:
        return Live(self.rule)


@frozen(kw_only=True)
class Groupwise(Pointwise):
    groupwise: ClassVar[bool] = True


def brightness(candidates: Sequence[Candidate]) -> list[float]:
    return [float(candidate.image.float().mean()) for candidate in candidates]


def honest(candidates: Sequence[Candidate]) -> Scores:
    return Scores(values=tuple(brightness(candidates)))


def ranks(candidates: Sequence[Candidate]) -> Scores:
    """Within groups."""
    bright = brightness(candidates)
    values = [
        float(sum(other.group == each.group and b < own for other, b in zip(candidates, bright, strict=True)))
        for each, own in zip(candidates, bright, strict=True)
    ]
    return Scores(values=tuple(values))


def drawn(candidates: Sequence[Candidate]) -> Scores:
    return Scores(values=tuple(random.random() for _ in candidates))


def centred(candidates: Sequence[Candidate]) -> Scores:
    bright = brightness(candidates)
    return Scores(values=tuple(each - sum(bright) / len(bright) for each in bright))


def sorted_(candidates: Sequence[Candidate]) -> Scores:
    return Scores(values=tuple(sorted(brightness(candidates))))


def short(candidates: Sequence[Candidate]) -> Scores:
    return Scores(values=tuple(brightness(candidates))[1:])


def uncounted(candidates: Sequence[Candidate]) -> Scores:
    return Scores(values=(None, *brightness(candidates)[1:]))


def blind(candidates: Sequence[Candidate]) -> Scores:
    return Scores(values=(None,) * len(candidates), failures={"blind": len(candidates)})


def not_a_number(candidates: Sequence[Candidate]) -> Scores:
    return Scores(values=(float("nan"),) * len(candidates))


def paints(candidates: Sequence[Candidate]) -> Scores:
    scores = honest(candidates)
    for candidate in candidates:
        candidate.image[:] = candidate.image.flip(0)
    return scores


class Forgetful:
    """Judges otherwise every time."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, candidates: Sequence[Candidate]) -> Scores:
        self.calls += 1
        return Scores(values=tuple(each + self.calls for each in brightness(candidates)))


def test_who_keeps_it_passes() -> None:
    check_reward(Pointwise(rule=honest))
    check_reward(Groupwise(rule=ranks))
    check_reward(Groupwise(rule=ranks), candidates=[some_candidates(6)[place] for place in (0, 3, 5, 1, 2, 4)])


@pytest.mark.parametrize(
    ("component", "told"),
    [
        (Pointwise(rule=drawn), "get other scores|draws from the global generator"),
        (Pointwise(rule=Forgetful()), "get other scores when they are judged again"),
        (Pointwise(rule=centred), "values depend on how a batch is cut"),
        (Pointwise(rule=ranks), "values depend on how a batch is cut"),
        (Groupwise(rule=centred), "values depend on the other groups of the batch"),
        (Pointwise(rule=sorted_), "the order of the candidates changes their values"),
        (Pointwise(rule=short), "5 values for 6 candidates"),
        (Pointwise(rule=uncounted), "1 values are None, but 0 failures are counted"),
        (Pointwise(rule=blind), "it judges none of the candidates"),
        (Pointwise(rule=not_a_number), "a value is no finite number"),
        (Pointwise(rule=paints), "score changes the pictures"),
    ],
)
def test_who_breaks_it_is_found(component: Pointwise, told: str) -> None:
    with pytest.raises(AssertionError, match=told):
        check_reward(component)
