"""The objectives ``nft`` and ``awm``, which need the pictures alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from attrs import evolve
from torch import Tensor

from qi_core import Dice, Rollouts
from qi_core.testing import check_component, check_objective
from qi_plugins.objective_grpo.awm import Awm
from qi_plugins.objective_grpo.forward import Noised, noised
from qi_plugins.objective_grpo.nft import Nft
from qi_plugins.sampler_flow.samplers import Euler
from support import policy
from support.policy import DICE, drawn, gradient, loss, models, moved, parts

CPU = torch.device("cpu")
ODE = Euler(steps=3, shift="none")


@pytest.fixture(scope="module")
def batch() -> Rollouts:
    return drawn(ODE)


def advantages(batch: Rollouts) -> Tensor:
    return torch.tensor([item.advantage for item in batch])


def each(points: Noised, model: Any) -> tuple[Tensor, Tensor]:
    """(velocity, (B,) flow-matching error)."""
    v = points.points.velocity(model)
    return v, points.x.sample_mean((v - points.target).square())


def test_they_are_components_and_objectives(batch: Rollouts) -> None:
    check_component(Nft)
    check_component(Awm)
    check_objective(Nft(), batch=batch)
    check_objective(Nft(draws=3, times="logit-normal", reference="none"), batch=batch)
    check_objective(Awm(), batch=batch, fresh=False)  # where nothing has moved the ratio is 1 whatever is drawn


def test_time_and_noise_are_fresh_and_of_each_picture_by_itself(batch: Rollouts) -> None:
    found = noised(batch, DICE, CPU, draws=2)
    assert len(found.x) == 24
    assert len(set(found.points.t.tolist())) == 24
    alone = noised(batch.split(12)[5], DICE, CPU, draws=2)
    assert torch.equal(alone.points.t, found.points.t[10:12])
    assert torch.equal(alone.x.tokens, torch.cat([one.tokens for one in found.x.split()[10:12]]))
    assert not set(noised(batch, Dice(0, 1), CPU, draws=2).points.t.tolist()) & set(found.points.t.tolist())


# nft


def test_nft_begins_with_flow_matching_weighted_by_advantage(batch: Rollouts) -> None:
    """Where the policy is the old one, the gradient is that of A |x_0_hat - x_0|^2 / w, whatever ``mix`` is."""
    model = policy.policy()
    points = noised(batch, DICE, CPU)
    left = points.x.per_token(1 - points.points.t)
    apart = left * (points.points.velocity(model) - points.target)
    errors = points.x.sample_mean(apart.square()) / points.x.sample_mean(apart.detach().abs())
    wanted = gradient((advantages(batch) * errors).mean(), model)
    for mix in (0.1, 1.0):
        objective = Nft(mix=mix, beta=0)
        found = gradient(loss(objective, batch, models(objective, model)).value, model)
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-5)


def test_nft_is_the_formula_of_the_paper(batch: Rollouts) -> None:
    objective, model = Nft(mix=0.5, advantage_clip=2.0, beta=0.3), policy.policy()
    live = models(objective, model)
    moved(model)
    live.shadows["old"].update()
    points = noised(batch, DICE, CPU)
    with live.as_of("old") as before:
        v_old = points.points.velocity(before).detach()
    with live.as_of("reference") as before:
        v_ref = points.points.velocity(before).detach()
    moved(model)
    v = points.points.velocity(model)
    share = 0.5 + (advantages(batch) / 2).clamp(-1, 1) / 2
    time = points.x.per_token(points.points.t)

    def error(implied: Tensor) -> Tensor:
        apart = points.x.tokens + (1 - time) * implied - points.data
        return points.x.sample_mean(apart.square()) / points.x.sample_mean(apart.abs()).detach()

    good, bad = error(0.5 * v_old + 0.5 * v), error(1.5 * v_old - 0.5 * v)
    kl = points.x.sample_mean((v - v_ref).square())
    wanted = (2.0 / 0.5 * (share * good + (1 - share) * bad) + 0.3 * kl).mean()
    found = loss(objective, batch, live)
    torch.testing.assert_close(found.value, wanted, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient(found.value, model), gradient(wanted, model), rtol=1e-3, atol=1e-5)
    assert parts(found)["velocity/old"] > 0


def test_nft_s_old_policy_follows_as_the_paper_says() -> None:
    rule = Nft().shadows()["old"]
    assert [rule.decay(n) for n in (0, 100, 500, 5000)] == [0, 0.1, 0.5, 0.5]


# awm


def test_awm_begins_with_flow_matching_weighted_by_advantage(batch: Rollouts) -> None:
    model, objective = policy.policy(), Awm(beta=0, beta_old=0, weight="noise", draws=2)
    found = loss(objective, batch, models(objective, model))
    points = noised(batch, DICE, CPU, draws=2)
    weight = 1 - points.points.t
    wanted = (advantages(batch) * points.by_picture(weight * each(points, model)[1])).mean()
    torch.testing.assert_close(gradient(found.value, model), gradient(wanted, model), rtol=1e-3, atol=1e-6)
    assert parts(found)["ratio"] == 1
    assert parts(found)["ratio/away"] == 0


def test_awm_is_clipped_against_the_old_policy(batch: Rollouts) -> None:
    model, objective = policy.policy(), Awm(beta=0.2, beta_old=0.3, clip=0.001)
    live, later = models(objective, model), evolve(batch, fresh=False)
    points = noised(batch, DICE, CPU)
    v_old, before = (value.detach() for value in each(points, model))
    moved(model)
    v, now = each(points, model)
    ratio, a = (before - now).exp(), advantages(batch)
    away = points.x.sample_mean((v - v_old).square())  # the reference is where the old policy still is
    wanted = (-torch.minimum(ratio * a, ratio.clamp(0.999, 1.001) * a) + 0.5 * away).mean()
    found = loss(objective, later, live)
    torch.testing.assert_close(found.value, wanted, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(gradient(found.value, model), gradient(wanted, model), rtol=1e-3, atol=1e-6)
    assert parts(found)["clip/high"] + parts(found)["clip/low"] > 0
