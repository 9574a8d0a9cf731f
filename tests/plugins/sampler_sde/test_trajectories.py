"""What is recorded can be replayed, and windows, shifts and samplers are settings."""

from __future__ import annotations

from typing import Any, TypeAlias

import pytest
import torch

from qi_core import Condition, Latents, Place, Step, Window, flow
from qi_core.stochastic import integrate, step_law
from qi_core.testing import check_component, check_sampler
from qi_core.testing.contract import place
from qi_core.testing.fakes import encoders, network, normal
from qi_plugins.sampler_flow.samplers import Euler
from qi_plugins.sampler_sde.samplers import Cps, DanceSde, ExactSde, FlowSde
from qi_registry.reader import read
from support.mixture import NOTHING, Mixture, line

Sde: TypeAlias = ExactSde | FlowSde | DanceSde | Cps
KINDS = (ExactSde, FlowSde, DanceSde, Cps)


@pytest.mark.parametrize("kind", KINDS)
def test_the_contract_with_windows_too(kind: type[Sde]) -> None:
    check_component(kind)
    check_sampler(kind())
    check_sampler(kind(steps=40, shift="none", window=Window(length=20, moves="random")))


@pytest.fixture
def here() -> Any:
    with place(seed=5) as found:
        yield found


NOISE = Latents(tokens=normal(6 + 4 + 9, 3, seed=1), grids=((1, 2, 3), (1, 4, 1), (1, 3, 3)))


def condition() -> Condition:
    return encoders().conditioner.encode(["ab", "c", "defg"])


def record(sampler: Sde, here: Place, noisy: torch.Tensor) -> list[Step]:
    steps: list[Step] = []
    with torch.no_grad():
        integrate(
            sampler,
            network(here),
            NOISE,
            condition(),
            generators=[torch.Generator().manual_seed(seed) for seed in range(3)],
            record=steps.append,
            noisy=noisy,
        )
    return steps


def ratios(sampler: Sde, here: Place, steps: list[Step], noisy: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """(S, B) new to old policy, the new one being the old, from states kept in ``dtype``."""
    found: list[torch.Tensor] = []
    for step in steps:
        x, x_next = (state.to(dtype).to(torch.float32) for state in (step.x, step.x_next))
        v = network(here).velocity(x, step.t, condition()).tokens
        mean, std = step_law(sampler, x, v, step.t, step.t_next, noisy[step.index])
        assert mean.requires_grad
        found.append((flow.log_prob(x_next, mean, std) - step.log_prob).exp())
    return torch.stack(found).detach()


@pytest.mark.parametrize("sampler", [kind(steps=6) for kind in KINDS], ids=lambda sampler: type(sampler).__name__)
def test_the_ratio_of_a_policy_to_itself_is_exactly_one(sampler: Sde, here: Place) -> None:
    noisy = torch.tensor([[True] * 3] * 3 + [[True, False, True]] * 3)
    steps = record(sampler, here, noisy)
    assert (ratios(sampler, here, steps, noisy, torch.float32) == 1).all()
    assert (ratios(sampler, here, steps, noisy, torch.bfloat16) - 1).abs().max() > 1e-3, "hence float32 alone"


@pytest.mark.parametrize("kind", KINDS)
def test_a_samples_law_does_not_depend_on_its_place_in_the_batch(kind: type[Sde]) -> None:
    """To the last bit, for any number of tokens and beside any others: replays may cut batches otherwise."""
    sampler, lengths = kind(steps=7), [256, 1024, 4096, 77, 6889, 12, 4096, 1000, 64, 300, 2]
    together = sampler.times(lengths)
    for slot, length in enumerate(lengths):
        alone = sampler.times([length])
        assert torch.equal(together[:, slot], alone[:, 0])
        for i in range(7):
            batch = sampler.fresh(together[i].double(), together[i + 1].double())
            single = sampler.fresh(alone[i].double(), alone[i + 1].double())
            assert [part[slot].float() for part in batch] == [part[0].float() for part in single]


@pytest.mark.parametrize("kind", KINDS)
def test_outside_its_window_it_is_euler_to_the_last_bit(kind: type[Sde]) -> None:
    sampler, steps, straight = kind(steps=8, window=Window(length=2, first=3)), list[Step](), list[Step]()
    noise = line(normal(50, seed=3))
    sampler.sample(Mixture(), noise, NOTHING, generators=[torch.Generator().manual_seed(0)], record=steps.append)
    Euler(steps=8).sample(Mixture(), noise, NOTHING, record=straight.append)
    assert [float(step.std) > 0 for step in steps] == [False] * 3 + [True] * 2 + [False] * 3
    assert all(torch.equal(ours.x.tokens, theirs.x.tokens) for ours, theirs in zip(steps[:4], straight, strict=False))
    for step in steps[5:]:
        v = Mixture().velocity(step.x, step.t, NOTHING).tokens
        assert torch.equal(step.x_next.tokens, step.x.tokens + step.x.per_token(step.t_next - step.t) * v)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"window": Window(length=3, first=8)}, "'window' of 3 steps from step 8, .* does not fit into 10 steps"),
        (
            {"window": Window(length=3, moves="random", latest=8)},
            r"may begin at step 8 \(latest\), and then does not fit into 10 steps",
        ),
        ({"shift": 0.0}, "'shift' must be > 0"),
        ({"shift": float("inf")}, "'shift' must be > 0 and finite"),
        ({"steps": 0}, "'steps' must be > 0"),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_settings_that_cannot_be_are_refused(kind: type[Sde], settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        kind(**settings)


@pytest.mark.parametrize("where", [{"first": 9}, {"moves": "random"}, {"moves": "progressive", "latest": 9}])
def test_a_window_that_may_be_the_last_step_alone_is_refused_where_that_adds_no_noise(where: dict[str, Any]) -> None:
    """A rollout would be drawn for nothing, at a step of the run that chance decides."""
    for kind in (ExactSde, Cps):
        with pytest.raises(ValueError, match="of 1 step may be the last step, which adds no noise here"):
            kind(window=Window(length=1, **where))
        kind(window=Window(length=1, first=8))
        kind(window=Window(length=1, moves="random", latest=8))
    for kind in (FlowSde, DanceSde):
        kind(window=Window(length=1, **where))


@pytest.mark.parametrize("level", [-0.1, float("nan"), float("inf")])
def test_a_level_of_noise_is_a_number_from_0_on(level: float) -> None:
    for kind, name in ((ExactSde, "a"), (FlowSde, "a"), (DanceSde, "eta"), (Cps, "eta")):
        with pytest.raises(ValueError, match=f"'{name}' must be"):
            kind(**{name: level})
    with pytest.raises(ValueError, match="'eta' must be <= 1"):
        Cps(eta=1.1)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("exact-sde", ExactSde), ("flow-sde", FlowSde), ("dance-sde", DanceSde), ("cps", Cps)],
)
def test_a_recipe_swaps_to_it_and_sets_its_window(name: str, expected: type[Sde]) -> None:
    window = '{length = 2, moves = "progressive", every = 5}'
    recipe = read("pretrain", [f'sampler = {{name = "{name}", steps = 12, window = {window}}}'])
    assert recipe.sampler == expected(steps=12, window=Window(length=2, moves="progressive", every=5))
    assert read("pretrain", [f"sampler={name}", "sampler.window.length=3"]).sampler == expected(window=Window(length=3))
