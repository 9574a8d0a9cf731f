"""The contract of samplers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from attrs import frozen
from torch import Tensor

from qi_core import flow
from qi_core.data import Condition, Latents
from qi_core.denoiser import Denoiser
from qi_core.sampler import Record, Sampler, Step, StochasticSampler
from qi_core.stochastic import step_law
from qi_core.testing.contract import Contract, contract
from qi_core.testing.fakes import MEAN, STD, GaussianField, normal

WIDTH = 4
MANY = 4096


def check_sampler(component: Sampler, *, tolerance: float = 0.15) -> None:
    """``qi_core.sampler``: it leads noise along the velocity to the data, sample by sample, tells what it did, and
    keeps nothing. What a ``StochasticSampler`` promises is checked of those that are one.

    A sampler whose result depends on ``generators`` is checked by the mean and deviation of what it gives, any other
    by the exact flow map of a Gaussian. ``tolerance``: how far its settings may be from exact; give it steps enough.
    """
    told = contract(component, "qi_core.sampler.Sampler.sample")
    noise = Latents(tokens=normal(6 + 4, WIDTH, seed=1), grids=((1, 2, 3), (1, 4, 1)))
    condition = _text(5, 2)
    before = noise.tokens.clone(), condition.text.clone()
    field = GaussianField()
    with told.leaves_random_numbers_alone("sample"):
        found = _sample(component, _Questions(told, noise, field), noise, condition)
    told.holds(
        torch.equal(noise.tokens, before[0]) and torch.equal(condition.text, before[1]),
        "it changed the noise or the condition that it was given",
    )
    _states(told, component, noise, condition, field, found)
    told.holds(
        torch.equal(_sample(component, GaussianField(), noise, condition).tokens, found.tokens),
        "two calls with the same arguments gave different latents; settings are all that it may hold",
    )
    random = not torch.equal(_sample(component, GaussianField(), noise, condition, seed=2).tokens, found.tokens)
    _end(told, component, tolerance, random)
    _apart(told, component, noise, condition, found)
    steps = _recorded(told, component, noise, condition, found)
    if isinstance(component, StochasticSampler):
        _replayed(contract(component, "qi_core.sampler.StochasticSampler"), component, steps, condition)


def _text(*lengths: int, width: int = 2) -> Condition:
    return Condition(text=normal(sum(lengths), width, seed=7), lengths=lengths)


def _generators(count: int, seed: int = 1) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(100 * seed + slot) for slot in range(count)]


def _sample(
    component: Sampler,
    field: Denoiser,
    noise: Latents,
    condition: Condition,
    *,
    seed: int = 1,
    generators: Sequence[torch.Generator] = (),
    record: Record | None = None,
) -> Latents:
    generators = generators or _generators(len(noise), seed)
    return component.sample(field, noise, condition, generators=generators, record=record)


@frozen(eq=False)
class _Questions:
    """A denoiser that looks at what it is asked."""

    told: Contract
    noise: Latents
    field: GaussianField

    def velocity(self, latents: Latents, t: Tensor, condition: Condition) -> Latents:
        self.told.holds(
            latents.grids == self.noise.grids and latents.tokens.shape == self.noise.tokens.shape,
            f"the denoiser was asked about latents of grids {latents.grids}, not the noise's",
        )
        self.told.holds(
            t.shape == (len(self.noise),) and t.dtype == torch.float32,
            f"the denoiser was given times of shape {tuple(t.shape)}, {t.dtype}; one float32 a sample is wanted",
        )
        self.told.holds(
            bool(((t >= 0) & (t <= 1)).all()), f"the denoiser was asked at times {t.tolist()}, out of [0, 1]"
        )
        return self.field.velocity(latents, t, condition)


def _states(
    told: Contract, component: Sampler, noise: Latents, condition: Condition, field: GaussianField, found: Latents
) -> None:
    told.holds(bool(field.states), "it never asked the denoiser")
    told.holds(
        found.grids == noise.grids and found.tokens.shape == noise.tokens.shape,
        f"the latents have grids {found.grids} and shape {tuple(found.tokens.shape)}, not the noise's",
    )
    half = GaussianField(dtype=torch.bfloat16)
    end = _sample(component, half, noise, condition)
    kept = {state.tokens.dtype for state in (*field.states, *half.states, found, end)}
    told.holds(kept == {torch.float32}, "states are not float32 all the way (as when the denoiser gives bfloat16)")


def _end(told: Contract, component: Sampler, tolerance: float, random: bool) -> None:
    if random:
        noise = Latents(tokens=normal(MANY, 1, seed=5), grids=((1, 1, MANY),))
        end = _sample(component, GaussianField(), noise, _text(1)).tokens
        mean, std = float(end.mean()), float(end.std())
        told.holds(
            abs(mean - MEAN) <= tolerance and abs(std - STD) <= tolerance,
            f"data of mean {MEAN} and deviation {STD} came out with {mean:.3g} and {std:.3g}; x_t goes from noise at "
            "t = 0 to data at t = 1 along v = x_0 - x_1",
        )
        return
    noise = Latents(tokens=torch.linspace(-2, 2, 12)[:, None], grids=((1, 3, 4),))
    end = _sample(component, GaussianField(), noise, _text(1)).tokens
    worst = float((end - (MEAN + STD * noise.tokens)).abs().max())
    told.holds(
        worst <= tolerance,
        f"it ends {worst:.2g} away from the exact flow map of a Gaussian ({tolerance:g} is allowed); x_t goes from "
        "noise at t = 0 to data at t = 1 along v = x_0 - x_1",
    )


def _apart(told: Contract, component: Sampler, noise: Latents, condition: Condition, found: Latents) -> None:
    """Generators are one a sample, so even samplers that draw noise give a sample the same wherever it stands."""
    tokens = noise.tokens.clone()
    tokens[noise.lengths[0] :] *= -3
    beside = _sample(component, GaussianField(), noise.with_tokens(tokens), condition)
    broken = "a sample comes out differently beside another neighbour in the batch"
    told.near(beside.split()[0].tokens, found.split()[0].tokens, 1e-5, broken)
    singles = zip(noise.split(), condition.split(), found.split(), _generators(len(noise)), strict=True)
    for alone, text, together, generator in singles:
        end = _sample(component, GaussianField(), alone, text, generators=[generator])
        broken = (
            "a sample comes out differently alone than in a batch; what is drawn for it comes from its own generator"
        )
        told.near(end.tokens, together.tokens, 1e-5, broken)


def _recorded(told: Contract, component: Sampler, noise: Latents, condition: Condition, found: Latents) -> list[Step]:
    """The trajectory, which must be what happened."""
    for field in (GaussianField(dtype=torch.bfloat16), GaussianField()):
        steps: list[Step] = []
        then: list[Tensor] = []

        def record(step: Step, steps: list[Step] = steps, then: list[Tensor] = then) -> None:
            steps.append(step)
            then.append(step.x_next.tokens.clone())

        end = _sample(component, field, noise, condition, record=record)
        told.holds(bool(steps), "it recorded no step")
        found_indices = [step.index for step in steps]
        told.holds(found_indices == list(range(len(steps))), f"steps were recorded in the order {found_indices}")
        _chained(told, steps, noise, end)
        told.holds(
            all(torch.equal(step.x_next.tokens, before) for step, before in zip(steps, then, strict=True)),
            "a state that was recorded has changed since",
        )
        for step in steps:
            _step(told, step, noise)
    told.holds(torch.equal(end.tokens, found.tokens), "with a record it gives other latents than without")
    return steps


def _chained(told: Contract, steps: list[Step], noise: Latents, end: Latents) -> None:
    told.holds(
        torch.equal(steps[0].x.tokens, noise.tokens) and torch.equal(steps[-1].x_next.tokens, end.tokens),
        "what it recorded does not begin with the noise and end with the latents that it gives",
    )
    told.holds(
        all(torch.equal(one.x_next.tokens, other.x.tokens) for one, other in pairwise(steps)),
        "the state after a recorded step is not the one before the next",
    )
    times = torch.stack([steps[0].t, *(step.t_next for step in steps)])
    told.holds(
        all(torch.equal(one.t_next, other.t) for one, other in pairwise(steps))
        and torch.allclose(times[0], torch.zeros(()), atol=1e-6)
        and torch.allclose(times[-1], torch.ones(()), atol=1e-6)
        and bool((times.diff(dim=0) > 0).all()),
        f"the recorded times are {times.T.tolist()}; from 0 to 1, a sample's own, is wanted",
    )


def _step(told: Contract, step: Step, noise: Latents) -> None:
    tokens = (step.x.tokens, step.mean, step.x_next.tokens)
    values = (step.t, step.t_next, step.std, step.log_prob)
    told.holds(
        {one.dtype for one in (*tokens, *values)} == {torch.float32},
        f"step {step.index} was not recorded in float32 (as when the denoiser gives bfloat16)",
    )
    told.holds(
        all(one.shape == noise.tokens.shape for one in tokens) and all(one.shape == (len(noise),) for one in values),
        f"step {step.index} was recorded in other shapes than (N, D) of states and (B,) of the rest",
    )
    told.near(
        step.log_prob,
        flow.log_prob(step.x_next, step.mean, step.std),
        1e-6,
        f"the log-probability of step {step.index} is not that of its state under its mean and std",
    )
    sure = step.x.per_token(step.std == 0)
    told.near(
        torch.where(sure, step.x_next.tokens, step.mean),
        step.mean,
        1e-6,
        f"step {step.index} has std 0 and does not end at its mean",
    )


def _replayed(told: Contract, component: StochasticSampler, steps: list[Step], condition: Condition) -> None:
    """The law of each recorded step, made again from its state: the ratio of a policy to itself is 1."""
    count, batch = len(steps), len(condition)
    noisy = component.noisy(count, (0,) * batch, 0)
    told.holds(
        noisy.shape == (count, batch) and noisy.dtype == torch.bool,
        f"noisy gave {tuple(noisy.shape)}, {noisy.dtype}; (steps, samples) of bool is wanted",
    )
    one_group = component.noisy(count, (7,) * 5, 3)
    told.holds(bool((one_group == one_group[:, :1]).all()), "samples of one group have different windows")
    for step in steps:
        v = GaussianField().velocity(step.x, step.t, condition).tokens.requires_grad_()
        mean, std = step_law(component, step.x, v, step.t, step.t_next, noisy[step.index])
        told.holds(
            torch.equal(mean, step.mean) and torch.equal(std, step.std),
            f"the law of step {step.index} is another when it is made again from its state; is sample not "
            "qi_core.stochastic.integrate?",
        )
        law = component.transition(step.x, v, step.t, step.t_next)
        told.holds(
            bool(law.mean.isfinite().all()) and bool(law.std.isfinite().all()) and bool((law.std >= 0).all()),
            f"from t = {step.t.tolist()} to {step.t_next.tolist()} the transition is not finite",
        )
        told.holds(law.mean.requires_grad, "transition is not differentiable in the velocity")
