"""The contract of denoisers."""

from __future__ import annotations

from fnmatch import fnmatchcase

import torch
from attrs import evolve, frozen
from torch import Tensor, nn

from qi_core.data import Condition, Latents
from qi_core.denoiser import DenoiserComponent, DenoiserModule
from qi_core.testing.contract import Contract, contract, place, same
from qi_core.testing.fakes import normal


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
