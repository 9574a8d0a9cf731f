"""Wrong objectives, optimizers and strategies are told what they break."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import pytest
import torch
from attrs import evolve, frozen
from torch import Tensor, nn

from qi_core import DenoiserModule, Dice, Encoders, Examples, Loss, Mean, Models, QiError, Samples, flow
from qi_core.testing import check_objective, check_optimizer, check_parallel
from qi_core.testing.fakes import OneCpu


@frozen(kw_only=True)
class Matching:
    """Flow matching, right; what follows breaks it in one place each."""

    takes: ClassVar[type] = Samples

    def prepare(self, batch: Samples, models: Models, dice: Dice) -> Examples:
        return self.encoded(batch, models.encoders)

    def encoded(self, batch: Samples, encoders: Encoders) -> Examples:
        return Examples(
            latents=encoders.autoencoder.encode([sample.image for sample in batch]),
            condition=encoders.condition([sample.prompt for sample in batch], [sample.references for sample in batch]),
            slots=batch.slots,
            keys=tuple(sample.key for sample in batch),
        )

    def loss(self, denoiser: DenoiserModule, prepared: Examples, dice: Dice) -> Loss:
        data = prepared.latents
        noises = [self.noise(n, own, dice) for n, own in zip(prepared.slots, data.split(), strict=True)]
        t = torch.full((len(data),), 0.4)
        noise = torch.cat(noises)
        x_t = data.with_tokens(flow.interpolate(data.tokens, noise, data.per_token(t)))
        v = denoiser(x_t, t, prepared.condition).tokens
        errors = data.sample_mean((v - flow.velocity_target(data.tokens, noise)).square())
        return self.told(errors)

    def noise(self, slot: int, own: Any, dice: Dice) -> Tensor:
        return torch.randn(own.tokens.shape, generator=dice.roll(slot))

    def told(self, errors: Tensor) -> Loss:
        return Loss(value=errors.mean(), parts={"error": Mean(errors.detach().sum(), torch.tensor(len(errors)))})


class Global(Matching):
    def noise(self, slot: int, own: Any, dice: Dice) -> Tensor:
        return torch.randn(own.tokens.shape)


class Cached(Matching):
    """The same noise at every visit."""

    def noise(self, slot: int, own: Any, dice: Dice) -> Tensor:
        return super().noise(slot, own, Dice(dice.seed, 0))


class ByPlace(Matching):
    """Rolls for the place in the micro-batch, not for the slot."""

    def prepare(self, batch: Samples, models: Models, dice: Dice) -> Examples:
        return super().prepare(Samples(items=batch.items), models, dice)


class Summed(Matching):
    def told(self, errors: Tensor) -> Loss:
        return Loss(value=errors.sum())


class Attached(Matching):
    def told(self, errors: Tensor) -> Loss:
        return Loss(value=errors.mean(), parts={"error": Mean(errors.sum(), torch.tensor(len(errors)))})


class Averaged(Matching):
    """A part that is a mean already, of a count of one."""

    def told(self, errors: Tensor) -> Loss:
        return Loss(value=errors.mean(), parts={"error": Mean(errors.detach().mean(), torch.tensor(1))})


class Graphless(Matching):
    def told(self, errors: Tensor) -> Loss:
        return Loss(value=errors.mean().detach())


@pytest.mark.parametrize(
    ("objective", "broken"),
    [
        (Global(), "global generator of torch"),
        (Cached(), "nothing is fresh"),
        (ByPlace(), "losses of micro-batches do not add up"),
        (Summed(), "losses of micro-batches do not add up"),
        (Attached(), "the part error hangs on the graph"),
        (Averaged(), "the part error of micro-batches does not add up"),
        (Graphless(), "value has no graph"),
    ],
)
def test_a_wrong_objective_is_told(objective: Matching, broken: str) -> None:
    check_objective(Matching())
    with pytest.raises(AssertionError, match=broken):
        check_objective(objective)


class Beforehand(Matching):
    """One that encodes beforehand, right."""

    def prepare(self, batch: Samples | Examples, models: Models, dice: Dice) -> Examples:
        return batch if isinstance(batch, Examples) else self.encoded(batch, models.encoders)

    def encode(self, batch: Samples, encoders: Encoders, dice: Dice) -> Any:
        return self.encoded(batch, encoders)


class Dropping(Beforehand):
    """What is dropped follows from the place in the portion."""

    def encode(self, batch: Samples, encoders: Encoders, dice: Dice) -> Any:
        items = tuple(evolve(item, prompt=item.prompt if i else "") for i, item in enumerate(batch))
        return super().encode(Samples(items=items, slots=batch.slots), encoders, dice)


class Renumbering(Beforehand):
    def encode(self, batch: Samples, encoders: Encoders, dice: Dice) -> Any:
        return super().encode(Samples(items=batch.items), encoders, dice)


class Bare(Beforehand):
    """Gives what can't be joined."""

    def encode(self, batch: Samples, encoders: Encoders, dice: Dice) -> Any:
        return tuple(batch)


class Deaf(Examples):
    @classmethod
    def cat(cls, parts: Sequence[Examples]) -> Examples:
        return deaf(Examples.cat(parts))

    def pick(self, which: Sequence[int]) -> Examples:
        return deaf(super().pick(which))

    def broken(self) -> list[int]:
        return []


def deaf(made: Examples) -> Deaf:
    return Deaf(latents=made.latents, condition=made.condition, slots=made.slots, keys=made.keys)


class Unheard(Beforehand):
    """Doesn't look whether values are finite."""

    def encode(self, batch: Samples, encoders: Encoders, dice: Dice) -> Any:
        return deaf(super().encode(batch, encoders, dice))


@pytest.mark.parametrize(
    ("objective", "broken"),
    [
        (Dropping(), "portions that are encoded apart and joined differ"),
        (Renumbering(), "gives the samples other slots"),
        (Bare(), "gives tuple, which is no Encodable"),
        (Unheard(), r"broken\(\) tells of \[\]; wanted \[1\]"),
    ],
)
def test_one_that_encodes_beforehand_wrongly_is_told(objective: Matching, broken: str) -> None:
    check_objective(Beforehand())
    with pytest.raises(AssertionError, match=broken):
        check_objective(objective)


class Momentum:
    """A live optimizer that keeps its contract: gradient descent with momentum and warm-up."""

    warmup = 4

    def __init__(self, model: nn.Module) -> None:
        self.lr = 0.02
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.speed = {name: torch.zeros_like(p) for name, p in self.parameters.items()}

    def rate(self, step: int) -> float:
        return self.lr * min(1.0, (step + 1) / self.warmup)

    def step(self, step: int) -> None:
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                assert parameter.grad is not None
                self.speed[name].mul_(0.5).add_(parameter.grad)
                parameter.sub_(self.speed[name], alpha=self.rate(step))
                parameter.grad = None

    def tensors(self) -> dict[str, Tensor]:
        return {f"speed/{name}": speed for name, speed in self.speed.items()}

    def state(self) -> dict[str, Any]:
        return {}

    def load(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        if tensors.keys() != self.tensors().keys():
            raise QiError("optimizer state: of another model; wanted this one's; use its recipe")
        self.speed = {name: tensors[f"speed/{name}"].clone() for name in self.speed}


@frozen(kw_only=True)
class Descent:
    kind: type[Momentum] = Momentum

    def build(self, model: nn.Module, steps: int) -> Momentum:
        return self.kind(model)


class FromZero(Momentum):
    def rate(self, step: int) -> float:
        return self.lr * min(1.0, step / self.warmup)


class FixedRate(Momentum):
    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.peak = self.lr

    def rate(self, step: int) -> float:
        return self.peak


class Ascends(Momentum):
    def step(self, step: int) -> None:
        for parameter in self.parameters.values():
            assert parameter.grad is not None
            parameter.grad = -parameter.grad
        super().step(step)


class Forgets(Momentum):
    def load(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        super().load({name: 0 * tensor for name, tensor in tensors.items()}, state)


class Borrows(Momentum):
    def load(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        super().load(tensors, state)
        self.speed = {name: tensors[f"speed/{name}"] for name in self.speed}


class Lenient(Momentum):
    def load(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        super().load({**self.tensors(), **tensors}, state)


class Accumulates(Momentum):
    def step(self, step: int) -> None:
        grads = {name: p.grad for name, p in self.parameters.items()}
        super().step(step)
        for name, parameter in self.parameters.items():
            parameter.grad = grads[name]


class Thaws(Momentum):
    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.everything = list(model.parameters())

    def step(self, step: int) -> None:
        super().step(step)
        with torch.no_grad():
            for parameter in self.everything:
                parameter.mul_(0.99)


@pytest.mark.parametrize(
    ("kind", "broken"),
    [
        (FromZero, r"rate\(0\) is 0"),
        (FixedRate, "does not follow a change of lr"),
        (Ascends, "made the loss no smaller"),
        (Forgets, "a resumed optimizer gives other weights than an unbroken one at step 4"),
        (Borrows, "it must copy"),
        (Lenient, "a state without 'speed/gain' was taken; QiError"),
        (Accumulates, "leaves the gradient of weight"),
        (Thaws, "step 0 moves frozen"),
    ],
)
def test_a_wrong_optimizer_is_told(kind: type[Momentum], broken: str) -> None:
    check_optimizer(Descent())
    with pytest.raises(AssertionError, match=broken):
        check_optimizer(Descent(kind=kind))


@frozen(kw_only=True)
class Parallel:
    kind: type[OneCpu] = OneCpu

    def build(self) -> OneCpu:
        return self.kind()


class Halves(OneCpu):
    def place(self, model: DenoiserModule) -> DenoiserModule:
        return model.to(torch.bfloat16)


class Renames(OneCpu):
    def place(self, model: DenoiserModule) -> DenoiserModule:
        model.add_module("inner", model.get_submodule("inward"))
        return model


class Replaces(OneCpu):
    def backward(self, loss: Tensor) -> None:
        grads = torch.autograd.grad(loss, self.weights)
        for weight, grad in zip(self.weights, grads, strict=True):
            weight.grad = grad

    def place(self, model: DenoiserModule) -> DenoiserModule:
        self.weights = list(model.parameters())
        return model


class TellsAfter(OneCpu):
    def clip(self, parameters: Iterable[nn.Parameter], limit: float) -> float:
        return min(super().clip(list(parameters), limit), limit or math.inf)


class NeverClips(OneCpu):
    def clip(self, parameters: Iterable[nn.Parameter], limit: float) -> float:
        return super().clip(parameters, 0)


class SumsTwice(OneCpu):
    def sum(self, values: Tensor) -> Tensor:
        return 2 * values


@pytest.mark.parametrize(
    ("kind", "broken"),
    [
        (Halves, "trained weights are float32"),
        (Renames, "renames parameters"),
        (Replaces, "do not add up"),
        (TellsAfter, r"clip\(\) to 1 told a norm of 1; before it was"),
        (NeverClips, r"clip\(\) to 1 left a norm"),
        (SumsTwice, r"sum\(\) of 6 and 3 over one process is \[12.0, 6.0\]"),
    ],
)
def test_a_wrong_strategy_is_told(kind: type[OneCpu], broken: str) -> None:
    check_parallel(Parallel())
    with pytest.raises(AssertionError, match=broken):
        check_parallel(Parallel(kind=kind))
