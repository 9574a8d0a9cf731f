"""The objective ``grpo``: its parts against formulas written out by hand, on rollouts by the real source."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from attrs import evolve
from torch import Tensor

from qi_core import DenoiserModule, Dice, Guidance, Latents, QiError, Rollouts, Window, flow
from qi_core.reward import Weighted
from qi_core.testing import check_component, check_objective
from qi_plugins.objective_grpo.forward import noised
from qi_plugins.objective_grpo.grpo import Grpo
from qi_plugins.objective_grpo.pieces import RATIOS, TRUSTS, WEIGHTS, Bounds, Move
from qi_plugins.objective_grpo.replay import replay
from qi_plugins.sampler_flow.samplers import Euler
from qi_plugins.sampler_sde.samplers import ExactSde, FlowSde
from support import policy, ring
from support.policy import DICE, EXACT, drawn, gradient, loss, models, moved, parts
from support.rollouts import Judge

CPU = torch.device("cpu")
ONE_STEP = ExactSde(steps=4, shift="none", window=Window(length=1, first=1))


def log_probs(batch: Rollouts, model: Any) -> Tensor:
    """(B, S) of what was drawn, by the model as it is; written out step by step, picture by picture."""
    sampler: Any = batch.sampler
    rows: list[Tensor] = []
    for item in batch:
        for step in item.steps:
            x, t = Latents(tokens=step.x, grids=item.latents.grids), torch.tensor([step.t])
            law = sampler.transition(x, model(x, t, item.condition).tokens, t, torch.tensor([step.t_next]))
            rows.append(flow.log_prob(x.with_tokens(step.x_next), law.mean, law.std))
    return torch.cat(rows).reshape(len(batch), -1)


def advantages(batch: Rollouts) -> Tensor:
    return torch.tensor([item.advantage for item in batch])


# It keeps its contract.


def test_it_is_a_component_and_an_objective() -> None:
    check_component(Grpo)
    batch = drawn()
    assert len({item.latents.grids for item in batch}) > 1  # mixed sizes
    check_objective(Grpo(), batch=batch, fresh=False)
    check_objective(Grpo(kl="velocity", steps=2), batch=evolve(batch, fresh=False), fresh=False)  # nothing has moved


@pytest.mark.parametrize("keys", [{"clip": 0}, {"beta": -1}, {"kl_limit": 0}])
def test_settings_that_cannot_be_are_refused(keys: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="'"):
        Grpo(**keys)


# The first update after a rollout.


@pytest.mark.parametrize("ratio", ["plain", "guard"])
def test_its_ratio_is_exactly_one(ratio: Any) -> None:
    told = parts(loss(Grpo(ratio=ratio), drawn(), models(Grpo(), policy.policy())))
    assert told["ratio"] == 1
    assert told["ratio/away"] == told["clip/low"] == told["clip/high"] == told["kl/old"] == told["kl"] == 0
    assert told["ratio/drift"] < 1e-6


def test_what_was_recorded_is_replayed_to_the_bit_in_a_batch_of_the_same_make() -> None:
    batch = drawn(ONE_STEP)
    pairs = replay(batch, False, 0, DICE, CPU)
    with torch.no_grad():
        mean, std = pairs.law(pairs.points.velocity(policy.policy()))
    assert torch.equal(mean, pairs.mean)
    recorded = [step.log_prob for item in batch for step in item.steps]
    assert flow.log_prob(pairs.x_next, mean, std).tolist() == recorded


def test_other_weights_than_those_that_drew_show_as_drift() -> None:
    model = moved(policy.policy())
    told = parts(loss(Grpo(), drawn(), models(Grpo(), model)))
    assert told["ratio"] == 1  # it was told that the batch is fresh
    assert told["ratio/drift"] > 1e-3


def test_its_gradient_is_that_of_reinforce() -> None:
    model, batch = policy.policy(), drawn()
    value = loss(Grpo(beta=0), batch, models(Grpo(), model)).value
    wanted = -(advantages(batch)[:, None] * log_probs(batch, model)).mean()
    expected = gradient(wanted, model)
    torch.testing.assert_close(gradient(value, model), expected, rtol=1e-4, atol=1e-7)
    assert expected.norm() > 1e-3


def test_advantages_of_zero_teach_nothing() -> None:
    model, batch = policy.policy(), drawn()
    batch = evolve(batch, items=tuple(evolve(item, advantage=0.0) for item in batch))
    assert not gradient(loss(Grpo(beta=0), batch, models(Grpo(), model)).value, model).any()


# Later updates.


def test_its_loss_is_the_clipped_one_of_recorded_log_probabilities() -> None:
    """Eq. 5, written out; some ratios are clipped on either side."""
    model, batch = moved(policy.policy()), evolve(drawn(), fresh=False)
    recorded = torch.tensor([[step.log_prob for step in item.steps] for item in batch])
    ratio, a = (log_probs(batch, model) - recorded).exp(), advantages(batch)[:, None]
    objective = Grpo(clip=0.01, clip_high=0.02, kl="none")
    found = loss(objective, batch, models(objective, model))
    wanted = -torch.minimum(ratio * a, ratio.clamp(0.99, 1.02) * a).mean()
    torch.testing.assert_close(found.value, wanted, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(gradient(found.value, model), gradient(wanted, model), rtol=1e-3, atol=1e-6)
    told = parts(found)
    low, high = (ratio < 0.99) & (a < 0), (ratio > 1.02) & (a > 0)
    assert low.any()
    assert high.any()
    assert told["clip/low"] == pytest.approx(low.float().mean().item())
    assert told["clip/high"] == pytest.approx(high.float().mean().item())
    assert told["ratio"] == pytest.approx(ratio.mean().item(), abs=1e-5)


def test_a_clip_in_nats_is_the_same_for_pictures_of_all_sizes() -> None:
    batch = drawn()
    pairs = replay(batch, False, 1, DICE, CPU)
    values = [item.latents.tokens.numel() for item in batch]
    bounds = Grpo(clip=0.6, clip_high=1.2, clip_nats=True)._bounds(pairs.x_next)
    assert len(set(values)) > 1
    torch.testing.assert_close(bounds.low * torch.tensor(values), torch.full((12,), 0.6))
    torch.testing.assert_close(bounds.high * torch.tensor(values), torch.full((12,), 1.2))


def test_a_subset_of_steps_is_drawn_anew() -> None:
    batch = drawn()
    pairs = [replay(batch, False, 2, dice, CPU) for dice in (DICE, DICE, Dice(0, 1))]
    assert pairs[0].counts == (2,) * 12
    assert torch.equal(pairs[0].points.t, pairs[1].points.t)
    assert not torch.equal(pairs[0].points.t, pairs[2].points.t)


# The pieces.


def move(x_next: float, mean: float, old: float, std: float) -> Move:
    """Of a picture of one value."""
    one = {"tokens": torch.tensor([[x_next]]), "grids": ((1, 1, 1),)}
    return Move.of(Latents(**one), torch.tensor([[mean]]), torch.tensor([[old]]), torch.tensor([std]))  # type: ignore[arg-type]


def test_a_move_is_the_difference_of_two_log_densities() -> None:
    found = move(1.3, 0.9, 0.4, 0.5)
    assert found.log_ratio.item() == pytest.approx((0.9**2 - 0.4**2) / (2 * 0.25), rel=1e-5)
    assert found.kl.item() == pytest.approx(0.25 / (2 * 0.25), rel=1e-5)


def test_guard_is_centred_and_of_one_spread() -> None:
    """x' = old + std eps: what is left of the log-ratio is eps times the move of the mean, whatever the std."""
    for std in (0.01, 1.0):
        found = move(0.4 + std * 1.5, 0.4 + 0.001, 0.4, std)
        assert RATIOS["guard"](found).log().item() == pytest.approx(1.5 * 0.001, rel=1e-2)
    assert RATIOS["plain"](found).item() == pytest.approx(found.log_ratio.exp().item())


def test_the_mask_holds_only_what_moves_on_from_too_far() -> None:
    ratio = torch.tensor([1.1, 1.1, 0.9, 0.9, 1.1])
    advantage = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0])
    kl = torch.tensor([0.2, 0.2, 0.2, 0.2, 0.01])
    nothing = torch.zeros(5)
    found = TRUSTS["kl-mask"](ratio, advantage, kl, Bounds(low=nothing, high=nothing, kl=0.1))
    assert found.high.tolist() == [True, False, False, False, False]
    assert found.low.tolist() == [False, False, False, True, False]
    torch.testing.assert_close(found.loss, torch.tensor([0, 1.1, -0.9, 0, -1.1]))


def test_weights_of_steps() -> None:
    dt, std = torch.tensor([0.1, 0.4]), torch.tensor([0.3, 0.1])
    found = {name: weigh(dt, std, lambda values: values.mean().expand(2)) for name, weigh in WEIGHTS.items()}
    assert found["none"].tolist() == [1, 1]
    assert found["inverse-dt"].tolist() == pytest.approx([10, 2.5])
    assert found["noise"].tolist() == pytest.approx([1.5, 0.5])


# The distance to the reference.


@pytest.mark.parametrize("kl", ["exact", "velocity", "flow-grpo"])
def test_it_is_a_distance_with_a_gradient(kl: Any) -> None:
    """Zero at the reference and nothing pulls there; away from it something does, toward it."""
    objective, model = Grpo(kl=kl, beta=1.0), policy.policy()
    live, batch = models(objective, model), drawn()
    batch = evolve(batch, items=tuple(evolve(item, advantage=0.0) for item in batch))
    assert loss(objective, batch, live).value.item() == 0
    moved(model)
    value = loss(objective, batch, live).value
    pull = gradient(value, model)
    assert value.item() > 1e-5
    assert pull.norm() > 1e-3
    with torch.no_grad():
        for parameter, own in zip(model.parameters(), pull.split([p.numel() for p in model.parameters()]), strict=True):
            parameter -= 1e-3 * own.reshape(parameter.shape) / pull.norm()
    assert loss(objective, batch, live).value < value
    assert parts(loss(evolve(objective, beta=0), batch, live))["kl"] > 0  # only watched


def test_the_exact_one_is_equation_8() -> None:
    """dt / 2 (g t / (2 (1 - t)) + 1 / g)^2 |v - v_ref|^2, over the number of values; flow_grpo's is dt times that."""
    a, model = 0.7, moved(policy.policy())
    batch = drawn(FlowSde(steps=4, shift="none", a=a, window=Window(length=2, first=1)))
    found, wanted = {}, torch.zeros(3)
    for kl in ("exact", "flow-grpo", "velocity"):
        objective = Grpo(kl=kl)  # type: ignore[arg-type]
        live = models(objective, policy.policy())
        live.denoiser.load_state_dict(model.state_dict())
        found[kl] = parts(loss(objective, batch, live))["kl"]
    for item in batch:
        for step in item.steps:
            x, t, dt = Latents(tokens=step.x, grids=item.latents.grids), torch.tensor([step.t]), step.t_next - step.t
            g = a * ((1 - step.t) / step.t) ** 0.5
            with torch.no_grad():
                apart = model(x, t, item.condition).tokens - policy.policy()(x, t, item.condition).tokens
            size = (g * step.t / (2 * (1 - step.t)) + 1 / g) ** 2 * apart.square().mean()
            wanted += torch.tensor([dt / 2 * size, dt * dt / 2 * size, 0]) / (2 * len(batch))
    assert found["exact"] == pytest.approx(wanted[0].item(), rel=1e-4)
    assert found["flow-grpo"] == pytest.approx(wanted[1].item(), rel=1e-4)
    points = noised(batch, DICE, CPU).points
    with torch.no_grad():
        away = points.velocity(model) - points.velocity(policy.policy())
    assert found["velocity"] == pytest.approx(points.x.sample_mean(away.square()).mean().item(), rel=1e-4)


class Adapted:
    """An adapter whose absence is the weights given."""

    def __init__(self, model: DenoiserModule, plain: DenoiserModule) -> None:
        self._model, self._plain = model, plain.state_dict()

    @contextmanager
    def off(self) -> Generator[None]:
        own = {name: tensor.clone() for name, tensor in self._model.state_dict().items()}
        self._model.load_state_dict(self._plain)
        try:
            yield
        finally:
            self._model.load_state_dict(own)

    def notes(self) -> tuple[str, ...]:
        return ()


def test_the_reference_may_be_the_denoiser_without_its_adapter() -> None:
    """As far away as a copy of the first weights is, without that copy."""
    batch, told = drawn(), {}
    for objective in (Grpo(), Grpo(reference="base")):
        live = models(objective, policy.policy())
        moved(live.denoiser)
        live = evolve(live, adapter=Adapted(live.denoiser, policy.policy()))
        told[objective.reference] = parts(loss(objective, batch, live))["kl"]
    assert told["base"] == told["start"] > 0
    assert not Grpo(reference="base").shadows()


# Guidance.


def test_training_is_guided_as_the_rollout_was() -> None:
    batch, objective = drawn(guidance=Guidance(scale=3.0)), Grpo(guidance="rollout")
    told = parts(loss(objective, batch, models(objective, policy.policy())))
    assert told["ratio/drift"] < 1e-5
    moved_on = evolve(batch, fresh=False)
    assert parts(loss(objective, moved_on, models(objective, policy.policy())))["ratio"] == pytest.approx(1, abs=1e-5)


def test_unguided_training_on_guided_rollouts_has_one_update() -> None:
    batch, live = drawn(guidance=Guidance(scale=3.0)), models(Grpo(), policy.policy())
    told = parts(loss(Grpo(), batch, live))
    assert told["ratio"] == 1
    assert "ratio/drift" not in told  # what was recorded is of another policy
    with pytest.raises(QiError, match="one update a rollout"):
        loss(Grpo(), evolve(batch, fresh=False), live)


# What cannot be learned from.


def test_rollouts_without_noise_are_refused() -> None:
    live = models(Grpo(), policy.policy())
    with pytest.raises(QiError, match="exact-sde"):
        loss(Grpo(), drawn(Euler(steps=3, shift="none")), live)
    batch = drawn()
    bare = evolve(batch, items=(evolve(batch.items[0], steps=()), *batch.items[1:]))
    with pytest.raises(QiError, match="no step of this picture has noise"):
        loss(Grpo(), bare, live)


def test_equal_rewards_change_nothing(tmp_path: Path) -> None:
    """No update at all: no NaN, no momentum, no step of the shadows."""
    equal = (Weighted(name="equal", reward=Judge(says=lambda candidate: 0.5)),)
    source = ring.rollouts(tmp_path, EXACT, rewards=equal)
    model = ring.Network()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    _, told = ring.train(Grpo(), source, tmp_path, steps=2, batch=192, model=model)
    assert [step["loss"] for step in told] == [0, 0]
    assert all(torch.equal(parameter, was) for parameter, was in zip(model.parameters(), before, strict=True))
