"""The contract of rewards."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence

import torch

from qi_core.reward import Candidate, Reward, RewardComponent, Scores
from qi_core.testing.contract import Contract, contract, place

WORDS = ("CAT", "DOG", "SUN", "ICE")


def check_reward(
    component: RewardComponent, *, candidates: Sequence[Candidate] | None = None, tolerance: float = 0.0
) -> None:
    """``qi_core.reward``: one value a candidate, in their order, that depends on the candidate alone (or, where it is
    groupwise, on its group); nothing is drawn, nothing is changed.

    ``candidates``: some that it can judge, of two groups or more (else noise with a word each). ``tolerance``: how far
    values may be apart when batches are cut otherwise; the same batch must give the same values to the bit.
    """
    told = contract(component, "qi_core.reward.Reward")
    judged = tuple(candidates or some_candidates())
    with place(seed=3) as here, told.leaves_random_numbers_alone("build or score"):
        first, second = component.build(here), component.build(here)
        asyncio.run(_judge(told, component.groupwise, first, second, judged, tolerance))


def some_candidates(count: int = 6, height: int = 16, width: int = 32) -> list[Candidate]:
    """Noise, in groups of two."""
    dice = torch.Generator().manual_seed(11)
    return [
        Candidate(
            key=f"candidate-{number}",
            group=f"prompt-{number // 2}",
            prompt=f'the word "{WORDS[number // 2 % len(WORDS)]}" in white',
            image=torch.randint(0, 256, (3, height, width), generator=dice, dtype=torch.uint8),
            text=WORDS[number // 2 % len(WORDS)],
        )
        for number in range(count)
    ]


async def _judge(
    told: Contract,
    groupwise: bool,
    first: Reward,
    second: Reward,
    candidates: tuple[Candidate, ...],
    tolerance: float,
) -> None:
    try:
        copies = [candidate.image.clone() for candidate in candidates]
        whole = await first.score(candidates)
        told.holds(
            all(torch.equal(candidate.image, copy) for candidate, copy in zip(candidates, copies, strict=True)),
            "score changes the pictures that it is given",
        )
        _sound(told, whole, len(candidates))
        told.holds(
            any(value is not None for value in whole.values),
            f"it judges none of the candidates ({dict(whole.failures)}), which proves nothing; give it others",
        )
        again = await asyncio.gather(first.score(candidates), first.score(candidates), second.score(candidates))
        told.holds(
            all(other == whole for other in again),
            "the same pictures get other scores when they are judged again, at the same time, or by one built anew",
        )
        backward = await first.score(candidates[::-1])
        _near(told, backward.values[::-1], whole.values, tolerance, "the order of the candidates changes their values")
        cut: list[float | None] = []
        for own in _units(candidates, groupwise):
            scores = await first.score(own)
            _sound(told, scores, len(own))
            cut += scores.values
        _near(
            told,
            tuple(cut),
            tuple(whole.values[at] for at in _order(candidates, groupwise)),
            tolerance,
            "values depend on the other groups of the batch" if groupwise else "values depend on how a batch is cut",
        )
    finally:
        await first.close()
        await second.close()


def _sound(told: Contract, scores: Scores, count: int) -> None:
    told.holds(len(scores.values) == count, f"{len(scores.values)} values for {count} candidates")
    for name, part in scores.parts.items():
        told.holds(len(part) == count, f"part {name!r} has {len(part)} values for {count} candidates")
    told.holds(
        all(value is None or math.isfinite(value) for value in scores.values),
        "a value is no finite number; what could not be told is None",
    )
    lacking, counted = scores.values.count(None), sum(scores.failures.values())
    told.holds(lacking == counted, f"{lacking} values are None, but {counted} failures are counted")


def _order(candidates: Sequence[Candidate], groupwise: bool) -> list[int]:
    """Positions, group by group where it is groupwise."""
    if not groupwise:
        return list(range(len(candidates)))
    groups = list(dict.fromkeys(candidate.group for candidate in candidates))
    return sorted(range(len(candidates)), key=lambda at: groups.index(candidates[at].group))


def _units(candidates: Sequence[Candidate], groupwise: bool) -> list[list[Candidate]]:
    """The smallest batches that it may be given."""
    units: dict[object, list[Candidate]] = {}
    for at in _order(candidates, groupwise):
        units.setdefault(candidates[at].group if groupwise else at, []).append(candidates[at])
    return list(units.values())


def _near(
    told: Contract,
    found: Sequence[float | None],
    wanted: Sequence[float | None],
    tolerance: float,
    broken: str,
) -> None:
    for one, other in zip(found, wanted, strict=True):
        same = one == other or (one is not None and other is not None and abs(one - other) <= tolerance)
        told.holds(same, f"{broken} ({one!r} beside {other!r})")
