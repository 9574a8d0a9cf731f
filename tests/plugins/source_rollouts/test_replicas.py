"""Rollouts that several ranks draw are those of one: pictures, steps, rewards, what is left out, checkpoints."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from attrs import evolve
from torch import Tensor

from qi_core import Candidate, DenoiserModule, Guidance, Place, QiError, Rollouts, Window
from qi_core.reward import Weighted
from qi_core.reward_server import Judge as ServedJudge
from qi_core.reward_server import Served, application
from qi_core.testing import fakes
from qi_plugins.reward_http.component import Http
from qi_plugins.source_rollouts.component import DrawnRollouts, RankedRollouts
from support.listening import listening
from support.replicas import Replica, all_well, on_ranks
from support.rollouts import Judge, Prompts, Ranking, Wandering, brightness

BRIGHT = Weighted(name="bright", reward=Judge())
SMALL = DrawnRollouts(
    prompts=Prompts(references=True),
    groups=5,
    group=4,
    passes=2,
    chunk=3,
    sampler=Wandering(steps=4, window=Window(length=2, moves="random")),
    guidance=Guidance(scale=2.0),
    rewards=(BRIGHT,),
)
Drawn = tuple[list[Any], dict[str, Any], dict[str, Tensor], Mapping[str, int]]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(device=torch.device("cpu"), dtype=torch.float32, seed=3, folder=tmp_path)


@pytest.fixture
def network(place: Place) -> DenoiserModule:
    return fakes.network(place)


def draws(
    settings: Any, place: Place, network: DenoiserModule, count: int = 10, times: int = 3
) -> Callable[..., Drawn]:
    """What a rank has of some batches: these, the source's state and tensors, what was left out."""

    def work(rank: Replica | fakes.OneCpu) -> Drawn:
        source = settings.build(place, 1)
        try:
            source.follow(evolve(fakes.models(deepcopy(network)), strategy=rank))
            batches = [source.draw(count) for _ in range(times)]
            state = json.loads(json.dumps(source.state_dict()))
            return batches, state, {k: v.clone() for k, v in source.tensors().items()}, source.report()
        finally:
            source.close()

    return work


def assert_alike(found: Drawn, wanted: Drawn) -> None:
    for own, alone in zip(found[0], wanted[0], strict=True):
        assert [item.key for item in own] == [item.key for item in alone]
        if isinstance(own, Rollouts):
            assert own.fresh == alone.fresh
            for item, other in zip(own, alone, strict=True):
                assert item.reward == pytest.approx(other.reward, abs=1e-5)
                assert item.advantage == pytest.approx(other.advantage, abs=1e-3)
                assert [(step.t, step.std) for step in item.steps] == [(step.t, step.std) for step in other.steps]
                assert all(b.x is a.x_next for a, b in zip(item.steps, item.steps[1:], strict=False))
    assert found[2].keys() == wanted[2].keys()
    for name, tensor in wanted[2].items():
        torch.testing.assert_close(found[2][name], tensor, atol=1e-5, rtol=1e-5)
    for name in ("phase", "prompts", "left", "untouched", "skipped", "settings"):
        assert found[1][name] == wanted[1][name], name
    assert found[3] == wanted[3]


@pytest.mark.parametrize(("ranks", "tensor"), [(2, 1), (4, 2), (7, 1)], ids=["2", "2 of 2", "more than groups"])
def test_all_ranks_have_the_rollout_of_one(place: Place, network: DenoiserModule, ranks: int, tensor: int) -> None:
    def says(candidate: Candidate) -> float | None:
        if candidate.key.endswith("/2"):
            return None
        return 0.5 if candidate.prompt == "cd" else brightness(candidate)

    settings = evolve(SMALL, rewards=(Weighted(name="bright", reward=Judge(says=says)),))
    work = draws(settings, place, network)
    wanted = work(fakes.OneCpu())
    assert wanted[3] == {"groups with equal rewards": 1, "reward bright: no reason told": 5}
    for found in all_well(on_ranks(ranks, work, tensor)):
        assert_alike(found, wanted)


def test_pairs_are_those_of_one(place: Place, network: DenoiserModule) -> None:
    ranked = RankedRollouts(prompts=Prompts(), groups=5, group=3, sampler=fakes.ThreeSteps(), rewards=(BRIGHT,))
    work = draws(ranked, place, network, count=5)
    for found in all_well(on_ranks(2, work)):
        assert_alike(found, work(fakes.OneCpu()))


@pytest.mark.parametrize("ranks", [3, 7])
def test_every_rank_calls_the_model_as_often(place: Place, network: DenoiserModule, ranks: int) -> None:
    """Or one would wait for ever for another's part of the weights."""
    calls: Counter[int] = Counter()

    def counted(rank: Replica) -> Any:
        own = deepcopy(network)
        velocity = own.velocity

        def watched(*args: Any) -> Any:
            calls[rank.team.rank] += 1
            return velocity(*args)

        own.velocity = watched  # type: ignore[method-assign]
        return draws(SMALL, place, own)(rank)

    all_well(on_ranks(ranks, counted))
    chunks = 3 if ranks == 3 else 2  # of two groups, or of one: 8 or 4 pictures, 3 at once
    assert dict(calls) == dict.fromkeys(range(ranks), chunks * 4)


def test_a_reward_that_compares_sees_whole_groups_once(place: Place, network: DenoiserModule) -> None:
    ranking = Ranking(seen=[])
    all_well(
        on_ranks(4, draws(evolve(SMALL, rewards=(Weighted(name="rank", reward=ranking),)), place, network), tensor=2)
    )
    assert sum(map(len, ranking.seen)) == 20
    assert all(call.count(group) == 4 for call in ranking.seen for group in call)


def test_each_picture_is_judged_once(place: Place, network: DenoiserModule) -> None:
    seen: list[str] = []

    def says(candidate: Candidate) -> float:
        seen.append(candidate.key)
        return brightness(candidate)

    reward = Judge(says=says)
    settings = evolve(SMALL, rewards=(Weighted(name="bright", reward=reward),))
    found = all_well(on_ranks(4, draws(settings, place, network, times=2), tensor=2))
    assert sorted(seen) == sorted(item.key for batch in found[0][0] for item in batch)
    seen.clear()
    server = application(ServedJudge({"bright": Served(reward=reward.build(place), groupwise=False)}))
    with listening(server) as url:
        over = evolve(settings, rewards=(Weighted(name="bright", reward=Http(url=url, reward="bright")),))
        all_well(on_ranks(2, draws(over, place, network, times=2)))
    assert sorted(seen) == sorted(item.key for batch in found[0][0] for item in batch)


def test_no_more_is_sent_than_a_picture_holds(place: Place, network: DenoiserModule) -> None:
    """Parts of a batch that is drawn at once share its memory, and all of that would be sent with each."""

    def sent(chunk: int) -> int:
        def work(rank: Replica) -> int:
            draws(evolve(SMALL, chunk=chunk, group=16), place, network)(rank)
            return rank.team.sent  # type: ignore[attr-defined]

        return sum(all_well(on_ranks(2, work)))

    assert sent(chunk=40) < 1.1 * sent(chunk=4)


@pytest.mark.parametrize("which", ["/0", "/3"], ids=["while others are drawn", "at the end"])
def test_a_reward_that_breaks_on_one_rank_ends_all(place: Place, network: DenoiserModule, which: str) -> None:
    def says(candidate: Candidate) -> float:
        if candidate.prompt == "hi" and candidate.key.endswith(which):  # of the last group
            raise ValueError("no such font")
        return brightness(candidate)

    broken = evolve(SMALL, rewards=(Weighted(name="broken", reward=Judge(says=says)),))
    zero, one = on_ranks(2, draws(broken, place, network))
    assert isinstance(zero, QiError)
    assert isinstance(one, QiError)
    assert str(one).startswith("rank 1: rewards: ValueError: no such font")
    assert str(zero) == str(one)
