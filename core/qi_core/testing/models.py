"""The contracts of samplers and denoisers."""

from __future__ import annotations

from fnmatch import fnmatchcase

import torch
from attrs import evolve, frozen
from torch import Tensor, nn

from qi_core.data import Condition, Latents
from qi_core.denoiser import Denoiser, DenoiserComponent, DenoiserModule
from qi_core.sampler import Sampler
from qi_core.testing.contract import Contract, contract, place, same
from qi_core.testing.fakes import MEAN, STD, GaussianField, normal

WIDTH = 4
MANY = 4096


def check_sampler(component: Sampler, *, tolerance: float = 0.15) -> None:
    """``qi_core.sampler.Sampler``: it leads noise along the velocity to the data, sample by sample, and keeps nothing.

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
    _sampled_states(told, component, noise, condition, field, found)
    told.holds(
        torch.equal(_sample(component, GaussianField(), noise, condition).tokens, found.tokens),
        "two calls with the same arguments gave different latents; settings are all that it may hold",
    )
    random = not torch.equal(_sample(component, GaussianField(), noise, condition, seed=2).tokens, found.tokens)
    _sampled_end(told, component, tolerance, random)
    _sampled_apart(told, component, noise, condition, found, random)


def check_denoiser(
    component: DenoiserComponent,
    *,
    latent_width: int = 12,
    text_width: int = 8,
    references: bool = True,
    seeded: bool = True,
    tolerance: float = 1e-5,
) -> None:
    """``qi_core.denoiser``: built from its seed alone, blind to neighbours in the batch, trained in every tensor.

    Weights are shaken first, because zeros at the start hide most mistakes. ``references`` False: it refuses
    reference pictures with QiError. ``seeded`` False: its weights come from a file.
    """
    told = contract(component, "qi_core.denoiser.DenoiserComponent.build")
    with place(seed=3) as here:
        with told.leaves_random_numbers_alone("build"):
            model = component.build(here, latent_width, text_width)
        again = component.build(here, latent_width, text_width).state_dict()
        told.holds(same(dict(model.state_dict()), dict(again)), "two builds with one seed gave different weights")
        if seeded:
            other = component.build(evolve(here, seed=4), latent_width, text_width).state_dict()
            told.holds(not same(dict(other), dict(again)), "builds with different seeds gave the same weights")
    for name, parameter in model.named_parameters():
        told.holds(parameter.dtype == torch.float32, f"{name} is {parameter.dtype}; weights are built in float32")
        told.holds(parameter.device.type == "cpu", f"{name} is on {parameter.device}, not on place.device")
    _shake(model)
    batch = _Batch.mixed(latent_width, text_width, references)
    told = contract(component, "qi_core.denoiser.Denoiser.velocity")
    _velocity(told, model, batch)
    _blind(told, model, batch, tolerance)
    _attentive(told, model, batch)
    if not references:
        pictured = _Batch.mixed(latent_width, text_width, references=True)
        told.refuses("a reference picture", lambda: pictured.velocity(model))
    _gradients(told, model, batch)
    _sharding(contract(component, "qi_core.denoiser.Sharding"), model)


def _text(*lengths: int, width: int = 2) -> Condition:
    return Condition(text=normal(sum(lengths), width, seed=7), lengths=lengths)


def _sample(component: Sampler, field: Denoiser, noise: Latents, condition: Condition, seed: int = 1) -> Latents:
    generators = [torch.Generator().manual_seed(100 * seed + slot) for slot in range(len(noise))]
    return component.sample(field, noise, condition, generators=generators)


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


def _sampled_states(
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


def _sampled_end(told: Contract, component: Sampler, tolerance: float, random: bool) -> None:
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


def _sampled_apart(
    told: Contract, component: Sampler, noise: Latents, condition: Condition, found: Latents, random: bool
) -> None:
    tokens = noise.tokens.clone()
    tokens[noise.lengths[0] :] *= -3
    beside = _sample(component, GaussianField(), noise.with_tokens(tokens), condition)
    broken = "a sample comes out differently beside another neighbour in the batch"
    told.near(beside.split()[0].tokens, found.split()[0].tokens, 1e-5, broken)
    if random:  # the generator serves the whole batch, so alone a sample draws other numbers
        return
    for alone, text, together in zip(noise.split(), condition.split(), found.split(), strict=True):
        end = _sample(component, GaussianField(), alone, text)
        told.near(end.tokens, together.tokens, 1e-5, "a sample comes out differently alone than in a batch")


@frozen(kw_only=True, eq=False)
class _Batch:
    """What a denoiser is asked."""

    latents: Latents
    t: Tensor
    condition: Condition

    @staticmethod
    def mixed(latent_width: int, text_width: int, references: bool) -> _Batch:
        """Three samples that differ in size, text length, number of references and time."""
        grids = ((1, 2, 3), (1, 4, 4), (1, 1, 2))
        shown = Latents(tokens=normal(6 + 4 + 3, latent_width, seed=13), grids=((1, 3, 2), (1, 2, 2), (1, 1, 3)))
        return _Batch(
            latents=Latents(tokens=normal(6 + 16 + 2, latent_width, seed=11), grids=grids),
            t=torch.tensor([0.25, 0.5, 0.9]),
            condition=Condition(
                text=normal(5 + 2 + 7, text_width, seed=12),
                lengths=(5, 2, 7),
                references=shown if references else None,
                reference_counts=(1, 0, 2) if references else (),
            ),
        )

    def singles(self) -> list[_Batch]:
        """One batch a sample."""
        return [
            _Batch(latents=latents, t=t[None], condition=condition)
            for latents, t, condition in zip(self.latents.split(), self.t, self.condition.split(), strict=True)
        ]

    def velocity(self, model: DenoiserModule) -> Latents:
        return model.velocity(self.latents, self.t, self.condition)


def _shake(model: nn.Module) -> None:
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)


@torch.no_grad()
def _velocity(told: Contract, model: DenoiserModule, batch: _Batch) -> None:
    before = batch.latents.tokens.clone(), batch.condition.text.clone()
    with told.leaves_random_numbers_alone("velocity"):
        found = batch.velocity(model)
    told.holds(
        found.grids == batch.latents.grids and found.tokens.shape == batch.latents.tokens.shape,
        f"the velocity has grids {found.grids} and shape {tuple(found.tokens.shape)}, not those of x_t",
    )
    told.holds(bool(found.tokens.isfinite().all()), "the velocity is not finite")
    told.holds(
        torch.equal(batch.latents.tokens, before[0]) and torch.equal(batch.condition.text, before[1]),
        "it changed the latents or the condition that it was given",
    )
    told.holds(torch.equal(batch.velocity(model).tokens, found.tokens), "two calls gave different velocities")


@torch.no_grad()
def _blind(told: Contract, model: DenoiserModule, batch: _Batch, tolerance: float) -> None:
    """A batch is its samples, each by itself."""
    for number, (single, together) in enumerate(
        zip(batch.singles(), batch.velocity(model).split(), strict=True), start=1
    ):
        told.near(
            together.tokens,
            single.velocity(model).tokens,
            tolerance,
            f"sample {number} of a batch of mixed sizes, texts and references has another velocity than alone",
        )


@torch.no_grad()
def _attentive(told: Contract, model: DenoiserModule, batch: _Batch) -> None:
    """Nothing that it is told is passed over in silence."""
    found = batch.velocity(model).tokens
    others = {
        "latents": evolve(batch, latents=batch.latents.with_tokens(-batch.latents.tokens)),
        "time": evolve(batch, t=1 - batch.t + 0.05),
        "text": evolve(batch, condition=evolve(batch.condition, text=-batch.condition.text)),
    }
    shown = batch.condition.references
    if shown is not None:
        flipped = evolve(batch.condition, references=shown.with_tokens(-shown.tokens))
        others["reference pictures"] = evolve(batch, condition=flipped)
    for what, other in others.items():
        told.holds(not torch.equal(other.velocity(model).tokens, found), f"the velocity does not depend on the {what}")


def _gradients(told: Contract, model: DenoiserModule, batch: _Batch) -> None:
    model.train()
    model.zero_grad()
    torch.autograd.backward(model(batch.latents, batch.t, batch.condition).tokens.float().square().mean())
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    told.holds(bool(trained), "nothing in it is trained")
    idle = [name for name, parameter in trained.items() if parameter.grad is None or not parameter.grad.any()]
    told.holds(
        not idle,
        f"{len(idle)} of {len(trained)} trained tensors get no gradient ({', '.join(idle[:3])}); freeze what is unused",
    )


def _sharding(told: Contract, model: DenoiserModule) -> None:
    plan = model.sharding()
    parameters = dict(model.named_parameters())
    told.holds(plan.heads > 0, f"heads is {plan.heads}")
    for pattern, split in plan.weights.items():
        found = [name for name in parameters if fnmatchcase(name, pattern)]
        told.holds(bool(found), f"the pattern {pattern!r} names no parameter")
        if split == "replicated":
            continue
        for name in found:
            shape, axis = tuple(parameters[name].shape), 1 if split == "rows" else 0
            told.holds(
                len(shape) > axis and shape[axis] % plan.heads == 0,
                f"{name} of shape {shape} cannot be divided by {split} over {plan.heads} ranks",
            )
    modules = dict(model.named_modules())
    told.holds(
        isinstance(modules.get(plan.blocks), nn.ModuleList), f"blocks is {plan.blocks!r}, which names no nn.ModuleList"
    )
