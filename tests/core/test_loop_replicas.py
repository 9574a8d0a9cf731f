"""Updates of several replicas: with fewer samples than replicas, and with none."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import Tensor

from qi_core import Candidate, Samples, loop
from qi_core.errors import LostError
from qi_core.feed import Ready, digest
from qi_core.portions import Lost, Portion
from qi_core.reward import Weighted
from qi_core.testing.fakes import OneCpu, samples
from qi_plugins.objective_grpo.grpo import Grpo
from qi_plugins.sampler_sde.samplers import ExactSde
from support import ring
from support.replicas import Replica, all_well, on_ranks
from support.rollouts import Judge, brightness


def test_what_little_there_is_to_learn_is_learned_alike(tmp_path: Path) -> None:
    """Of the first rollout one group of two is left, of the second none, of the third all."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        network = ring.Network(width=16)

    def says(candidate: Candidate) -> float:
        rollout, rest = candidate.key.split(".", 1)
        tied = rollout == "1" or (rollout == "0" and not rest.startswith("3/"))
        return 0.5 if tied else brightness(candidate)

    def learns(strategy: OneCpu) -> tuple[list[Mapping[str, float]], list[Tensor]]:
        weights: list[Tensor] = []
        model = deepcopy(network)
        judge = (Weighted(name="some", reward=Judge(says=says)),)
        source = ring.rollouts(tmp_path, ExactSde(steps=4, shift="none"), group=2, chunk=4, rewards=judge)
        draw = source.draw

        def noted(count: int) -> object:
            weights.append(torch.cat([p.detach().flatten().clone() for p in model.parameters()]))
            return draw(count)

        source.draw = noted  # type: ignore[method-assign, assignment]
        _, told = ring.train(Grpo(), source, tmp_path, steps=4, batch=16, accumulate=2, model=model, strategy=strategy)
        return told, weights

    told, weights = learns(OneCpu())
    assert torch.equal(weights[1], weights[2]), "nothing moves"
    assert not torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[2], weights[3])

    def rank(replica: Replica) -> tuple[list[Mapping[str, float]], list[Tensor]]:
        return learns(replica)

    found = all_well(on_ranks(3, rank))
    for own, moved in found:
        assert [step["loss"] for step in own] == pytest.approx([step["loss"] for step in told], abs=1e-6)
        assert [step["grad_norm"] for step in own] == pytest.approx([step["grad_norm"] for step in told], rel=1e-4)
        assert own[1]["loss"] == own[1]["grad_norm"] == 0
        for mine, alone in zip(moved, weights, strict=True):
            torch.testing.assert_close(mine, alone, atol=1e-5, rtol=0)
        assert torch.equal(moved[1], moved[2])
        assert all(map(torch.equal, moved, found[0][1])), "replicas stay alike"


def ready(batch: Samples) -> Ready:
    told = digest([item.key for item in batch])
    return Ready(portions=(Portion(batch=batch),), total=len(batch), passes=1, position={}, digest=told)


def test_ranks_that_draw_different_samples_all_stop() -> None:
    """A picture that one rank alone could not read would leave it ahead of the others for ever."""

    def alike(rank: Replica) -> None:
        loop.agree_on_samples(rank, ready(samples(7)), (), 2)

    def apart(rank: Replica) -> None:
        drawn = samples(8).pick(range(1, 8) if rank.team.rank == 3 else range(7))
        loop.agree_on_samples(rank, ready(drawn), (), 2)

    assert on_ranks(4, alike, tensor=2) == [None] * 4
    found = on_ranks(4, apart)
    assert all(isinstance(error, LostError) for error in found)
    assert {str(error).partition(",")[0] for error in found} == {"step 3: the ranks have drawn different samples"}


def test_what_one_rank_could_not_use_all_know_of() -> None:
    lost = Lost(key="a.png", reason="cannot be decoded", detail="cut off")

    def rank(replica: Replica) -> list[Lost]:
        own = (Portion(batch=samples(1), lost=(lost,) if replica.replica == 1 else ()),)
        return loop.agree_on_samples(replica, ready(samples(7)), own, 2)

    assert on_ranks(4, rank, tensor=2) == [[lost]] * 4
