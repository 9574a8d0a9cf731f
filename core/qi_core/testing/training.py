"""The contracts of objectives, optimizers and parallel strategies."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from attrs import evolve
from torch import Tensor, nn

from qi_core.data import Batch, Condition, Latents, Samples, keys, listed
from qi_core.denoiser import DenoiserModule
from qi_core.dice import Dice
from qi_core.objective import Loss, Objective
from qi_core.optimizer import Optimizer, OptimizerComponent
from qi_core.parallel import ParallelComponent
from qi_core.producing import Encodable, Encodes, joined
from qi_core.shadow import Shadow, Shadowed
from qi_core.testing import fakes
from qi_core.testing.contract import Contract, contract, place, same

STEPS = 12


def check_objective(component: Objective[Any], *, batch: Batch | None = None, fresh: bool = True) -> None:
    """``qi_core.objective.Objective``: a mean over samples whose randomness comes from the dice, slot by slot.

    ``batch``: something to learn from, for an objective that takes anything but Samples; its pictures are encoded by
    ``qi_core.testing.fakes.encoders()``. ``fresh`` False: nothing in the loss is random. One that encodes beforehand
    (``qi_core.producing.Encodes``) is held to that too.
    """
    told = contract(component, "qi_core.objective.Objective")
    if batch is None:
        told.holds(component.takes is Samples, f"it takes {component.takes.__name__}; give the check a batch of these")
        batch = fakes.samples(6)
    told.holds(isinstance(batch, component.takes), f"it takes {component.takes.__name__}, the batch is {batch!r}")
    with place() as here:
        model = fakes.network(here)
    before = copy.deepcopy((dict(model.state_dict()), batch))
    with told.leaves_random_numbers_alone("prepare or loss"):
        loss = _loss(component, model, batch, Dice(0, 0))
    _is_loss(contract(component, "qi_core.objective.Loss"), loss, model)
    told.holds(same((dict(model.state_dict()), batch), before), "it changed the weights or the batch")
    again = _loss(component, model, batch, Dice(0, 0))
    told.holds(torch.equal(again.value, loss.value), "the same dice gave another loss; a resumed run would differ")
    if fresh:
        later = _loss(component, model, batch, Dice(0, 1))
        told.holds(not torch.equal(later.value, loss.value), "another step's dice gave the same loss: nothing is fresh")
    _cut(told, component, model, batch, loss)
    if isinstance(component, Encodes):
        _encodes(contract(component, "qi_core.producing.Encodes"), component, model, batch, loss)


def check_optimizer(component: OptimizerComponent) -> None:
    """``qi_core.optimizer.Optimizer``: it learns from its first step, and goes on from a saved state bit for bit."""
    told = contract(component, "qi_core.optimizer.Optimizer")
    model = _model()
    optimizer = component.build(model, STEPS)
    _rates(told, optimizer)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    first = _update(model, optimizer, 0)
    for name, parameter in model.named_parameters():
        moved = not torch.equal(parameter, before[name])
        told.holds(moved == parameter.requires_grad, f"step 0 {'moves' if moved else 'does not move'} {name}")
        told.holds(parameter.grad is None or not parameter.grad.any(), f"step leaves the gradient of {name}")
    for step in range(1, 4):
        _update(model, optimizer, step)
    told.holds(_error(model).item() < first, "four steps along the gradient made the loss no smaller")
    _resumes(told, component, model, optimizer)
    rate = optimizer.rate(STEPS // 2)
    optimizer.lr *= 2
    told.holds(
        math.isclose(optimizer.rate(STEPS // 2), 2 * rate, rel_tol=1e-6), "rate() does not follow a change of lr"
    )


def check_parallel(component: ParallelComponent) -> None:
    """``qi_core.parallel.Strategy`` in one process: weights keep their names, gradients add up and are clipped."""
    told = contract(component, "qi_core.parallel.Strategy")
    live = component.build()
    with place() as here:
        model = fakes.network(here)
    names = list(model.state_dict())
    model = live.place(model)
    told.holds(list(model.state_dict()) == names, "place() renames parameters; checkpoints name the unsharded model's")
    for name, parameter in model.named_parameters():
        told.holds(
            parameter.dtype == torch.float32, f"place() made {name} {parameter.dtype}; trained weights are float32"
        )
        told.holds(parameter.device == live.device, f"place() left {name} on {parameter.device}, not {live.device}")
    told.holds(
        (live.team.ranks, live.replicas, live.replica) == (1, 1, 0),
        f"one process, but it tells of {live.team.ranks} ranks and {live.replicas} replicas",
    )
    held = live.held(model)
    told.holds(list(held.trained) == names, "held() tells other names than the model's")
    parts = [part for name, piece in held.trained.items() for part in held.parts(name, piece)]
    told.holds(all(part.is_whole for part in parts), "one process, but it holds parts of tensors")
    weights = list(model.parameters())
    for _ in range(2):
        with live.autocast():
            loss = torch.stack([weight.sum() for weight in weights]).sum()
        live.backward(loss)
    told.holds(
        all(weight.grad is not None and bool(weight.grad.eq(2).all()) for weight in weights),
        "two calls of backward() do not add up",
    )
    size = 2 * math.sqrt(sum(weight.numel() for weight in weights))
    norms = [live.clip(weights, limit) for limit in (0.0, 1.0, 0.0)]
    told.holds(math.isclose(norms[0], size, rel_tol=1e-4), f"clip() told a norm of {norms[0]:.4g}; it was {size:.4g}")
    told.holds(
        math.isclose(norms[1], size, rel_tol=1e-4),
        f"clip() to 1 told a norm of {norms[1]:.4g}; before it was {size:.4g}, and limit 0 must change nothing",
    )
    told.holds(math.isclose(norms[2], 1.0, rel_tol=1e-3), f"clip() to 1 left a norm of {norms[2]:.4g}")
    total = live.sum(torch.tensor([6.0, 3.0], device=live.device)).tolist()
    told.holds(total == [6.0, 3.0], f"sum() of 6 and 3 over one process is {total}")


def _loss(component: Objective[Any], model: DenoiserModule, batch: Batch, dice: Dice) -> Loss:
    """As the loop does it."""
    wanted = component.shadows() if isinstance(component, Shadowed) else {}
    shadows = {name: Shadow(model, rule) for name, rule in wanted.items()}
    models = evolve(fakes.models(model), shadows=shadows)
    with torch.no_grad():
        prepared = component.prepare(batch, models, dice)
    return component.loss(model, prepared, dice)


def _is_loss(told: Contract, loss: Loss, model: DenoiserModule) -> None:
    told.holds(loss.value.shape == (), f"value has shape {tuple(loss.value.shape)}; wanted a scalar")
    told.holds(bool(loss.value.isfinite()), "value is not finite")
    told.holds(loss.value.requires_grad, "value has no graph: nothing can be learned")
    torch.autograd.backward(loss.value)
    grads = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    told.holds(any(bool(grad.any()) for grad in grads), "no gradient reaches the denoiser")
    model.zero_grad()
    for name, mean in loss.parts.items():
        for number in (mean.total, mean.count):
            told.holds(number.shape == (), f"the part {name} has shape {tuple(number.shape)}; wanted scalars")
            told.holds(not number.requires_grad, f"the part {name} hangs on the graph; wanted detached")


def _cut(told: Contract, component: Objective[Any], model: DenoiserModule, batch: Batch, whole: Loss) -> None:
    """Micro-batches add up to the batch."""
    parts = [(micro, _loss(component, model, micro, Dice(0, 0))) for micro in batch.split(len(batch))]
    total = torch.stack([loss.value.detach() * len(micro) / len(batch) for micro, loss in parts]).sum()
    told.near(total, whole.value.detach(), 1e-4, "the losses of micro-batches do not add up to that of the whole batch")
    for name, mean in whole.parts.items():
        own = [loss.parts[name] for _, loss in parts if name in loss.parts]
        for found, wanted in (([one.total for one in own], mean.total), ([one.count for one in own], mean.count)):
            told.near(
                torch.stack(found).sum(), wanted, 1e-4, f"the part {name} of micro-batches does not add up to the whole"
            )


def _encodes(told: Contract, component: Any, model: DenoiserModule, batch: Any, wanted: Loss) -> None:
    """Whoever encodes, and in whichever portions, the loss is the same."""
    dice, encoders = Dice(0, 0), fakes.encoders()
    whole = component.encode(batch, encoders, dice)
    told.holds(isinstance(whole, Encodable), f"encode() gives {type(whole).__name__}, which is no Encodable")
    told.holds(
        not isinstance(batch, Encodable), "the batch is an Encodable before it is encoded: nobody would encode it"
    )
    told.holds(keys(whole) == keys(batch), f"encode() gives the samples other keys: {listed(keys(whole))}")
    told.holds(whole.broken() == [], f"broken() tells of {whole.broken()}, and all values are finite")
    there = _loss(component, model, whole, dice)
    told.holds(torch.equal(there.value, wanted.value), "encoded beforehand the same batch gives another loss")
    last_first = [batch.pick([i]) for i in reversed(range(len(batch)))]
    portions = [component.encode(one, encoders, dice) for one in last_first]
    for portion, one in zip(portions, last_first, strict=True):
        told.holds(tuple(portion.slots) == tuple(one.slots), "encode() gives the samples other slots")
    back = joined(portions)
    told.holds(type(back) is type(whole) and same(back, whole), "portions that are encoded apart and joined differ")
    for blind in (evolve(encoders, autoencoder=_NoPictures()), evolve(encoders, conditioner=_NoText())):
        bad = component.encode(batch.pick([1]), blind, dice)
        found = type(whole).cat([portions[-1], bad]).broken()
        told.holds(found == [1], f"broken() tells of {found}; wanted [1], whose values are not finite")


class _NoPictures(fakes.Pixels):
    """All are NaN."""

    def encode(self, images: Sequence[Tensor]) -> Latents:
        latents = super().encode(images)
        return latents.with_tokens(latents.tokens * math.nan)


class _NoText(fakes.PicturedLetters):
    """The same of captions."""

    def encode(self, prompts: Sequence[str], references: Sequence[Sequence[Tensor]] = ()) -> Condition:
        condition = super().encode(prompts, references)
        return evolve(condition, text=condition.text * math.nan)


def _model() -> nn.Module:
    """A matrix, a bias, a gain; and one tensor that is frozen."""
    model = nn.Module()
    model.weight = nn.Parameter(fakes.normal(4, 3, seed=1))
    model.bias = nn.Parameter(fakes.normal(4, seed=2))
    model.gain = nn.Parameter(torch.ones(()))
    model.frozen = nn.Parameter(fakes.normal(2, 2, seed=3), requires_grad=False)
    return model


def _error(model: nn.Module) -> Tensor:
    x = fakes.normal(8, 3, seed=4)
    own = dict(model.named_parameters())
    return (own["gain"] * (x @ own["weight"].T + own["bias"]) - 5).square().mean()


def _update(model: nn.Module, optimizer: Optimizer, step: int) -> float:
    error = _error(model)
    torch.autograd.backward(error)
    optimizer.step(step)
    return error.item()


def _rates(told: Contract, optimizer: Optimizer) -> None:
    rates = [optimizer.rate(step) for step in range(STEPS)]
    told.holds(rates[0] > 0, "rate(0) is 0: the first step is lost")
    told.holds(
        all(math.isfinite(rate) and 0 <= rate <= optimizer.lr * (1 + 1e-9) for rate in rates),
        f"rates leave [0, lr]: {rates}",
    )


def _resumes(told: Contract, component: OptimizerComponent, model: nn.Module, optimizer: Optimizer) -> None:
    """Save after four steps; two models go on, one with the optimizer that was there and one with a new one."""
    tensors = {name: tensor.clone() for name, tensor in optimizer.tensors().items()}
    state = told.is_json(optimizer.state(), "state()")
    names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    strange = [name for name in tensors if name.partition("/")[2] not in names]
    told.holds(not strange, f"tensors() names {strange[:3]}; wanted <slot>/<trained parameter>")
    twin = copy.deepcopy(model)
    resumed = component.build(twin, STEPS)
    if tensors:
        short = dict(tensors)
        gone, _ = short.popitem()
        told.refuses(
            f"a state without {gone!r}", lambda: component.build(copy.deepcopy(model), STEPS).load(short, state)
        )
    kept = copy.deepcopy(tensors)
    resumed.load(tensors, state)
    for step in range(4, 8):
        _update(model, optimizer, step)
        _update(twin, resumed, step)
        told.holds(
            same(dict(twin.named_parameters()), dict(model.named_parameters())),
            f"a resumed optimizer gives other weights than an unbroken one at step {step}",
        )
    told.holds(same(tensors, kept), "load() keeps the checkpoint's own tensors and changes them; it must copy")
