"""The source ``ranked-rollouts``: the best and the worst of each group that the policy draws."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from attrs import evolve

from qi_core import Candidate, Latents, Pairs, Place, QiError
from qi_core.reward import Weighted
from qi_core.testing import check_component, fakes
from qi_core.testing.contract import same
from qi_plugins.source_rollouts.component import DrawnRollouts, RankedRollouts
from support.rollouts import Judge, Prompts, Wandering, brightness

SMALL = RankedRollouts(
    prompts=Prompts(references=True), groups=4, group=3, sampler=Wandering(),
    rewards=(Weighted(name="bright", reward=Judge()),),
)  # fmt: skip


@pytest.fixture
def build(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Live sources that follow an untrained model, closed at the end."""
    place = Place(device=torch.device("cpu"), dtype=torch.float32, seed=3, folder=tmp_path)
    built: list[Any] = []

    def make(settings: Any = SMALL) -> Any:
        source = settings.build(place, 1)
        source.follow(fakes.models(fakes.network(place)))
        built.append(source)
        return source

    yield make
    for source in built:
        source.close()


def light(latents: object) -> float:
    assert isinstance(latents, Latents)
    return float(latents.tokens.clamp(-1, 1).mean())


def test_it_is_a_component() -> None:
    check_component(RankedRollouts)


def test_the_winner_is_the_best_of_its_group_and_the_loser_the_worst(build: Callable[..., Any]) -> None:
    pairs = build().draw(4)
    assert isinstance(pairs, Pairs)
    drawn = build(
        DrawnRollouts(prompts=SMALL.prompts, groups=4, group=3, sampler=SMALL.sampler, rewards=SMALL.rewards)
    ).draw(12)
    for pair in pairs:
        own = sorted((item for item in drawn if item.group == pair.key), key=lambda item: item.reward)
        assert len(own) == 3
        assert pair.prompt == own[0].prompt
        assert same(pair.winner, own[-1].latents)
        assert same(pair.loser, own[0].latents)
        assert light(pair.winner) > light(pair.loser)
        assert len(pair.references) == 1


def test_whole_group_ties_are_dropped_and_counted(build: Callable[..., Any]) -> None:
    def says(candidate: Candidate) -> float | None:
        if candidate.prompt == "cd":
            return 0.3
        return None if candidate.prompt == "ef" else brightness(candidate)

    source = build(evolve(SMALL, rewards=(Weighted(name="bright", reward=Judge(says=says)),)))
    pairs = source.draw(4)
    assert sorted(pair.prompt for pair in pairs) == ["ab", "g"]
    assert source.report() == {"groups with equal rewards": 1, "reward bright: no reason told": 3}
    assert source.figures()["rollout/margin"] > 0
    nothing = build(evolve(SMALL, rewards=(Weighted(name="same", reward=Judge(says=lambda _: 0.5)),)))
    assert len(nothing.draw(4)) == 0


def test_it_goes_on_from_anywhere_to_the_bit(build: Callable[..., Any]) -> None:
    source = build()
    batches, saved = [], []
    for _ in range(5):  # two rollouts and a half
        state = json.loads(json.dumps(source.state_dict()))
        saved.append((state, {name: tensor.clone() for name, tensor in source.tensors().items()}))
        batches.append(source.draw(2))
    for position, (state, tensors) in enumerate(saved[1:], 1):
        resumed = build()
        resumed.load_state_dict(state)
        resumed.load_tensors(tensors)
        for wanted in batches[position:]:
            assert same(resumed.draw(2), wanted), position


def test_a_batch_must_divide_the_groups(build: Callable[..., Any]) -> None:
    with pytest.raises(QiError, match=r"train.batch: 3; a rollout gives 4 \(a pair for each of groups = 4\)"):
        build().draw(3)
