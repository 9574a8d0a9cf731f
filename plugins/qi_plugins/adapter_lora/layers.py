"""Linear layers with a matrix of low rank beside their own, and how they get into a denoiser.

Shapes: R rank, I inputs, O outputs; A is (R, I), B is (O, R).
"""

from __future__ import annotations

import math
import re
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from attrs import define, evolve, field, frozen
from torch import Tensor, nn

from qi_core import Dice, QiError, Sharding

if TYPE_CHECKING:
    from qi_core import DenoiserModule, Place
    from qi_core.denoiser import Split
    from qi_plugins.adapter_lora.component import LoRA

A, B = "lora_A", "lora_B"
SHOWN = 12


@define
class Switch:
    """One for all layers of an adapter."""

    on: bool = True


class LoraLinear(nn.Linear):
    """x W' + b + s x A' B'.

    It holds the very parameters of the layer whose place it takes, under the same names, and A and B in float32.
    """

    def __init__(self, base: nn.Linear, a_RI: Tensor, b_OR: Tensor, scale: float, switch: Switch) -> None:
        nn.Module.__init__(self)  # not Linear's own: it would make a weight and draw random numbers for it
        self.in_features, self.out_features = base.in_features, base.out_features
        self.weight, self.bias = base.weight, base.bias
        self.lora_A, self.lora_B = nn.Parameter(a_RI), nn.Parameter(b_OR)
        self.scale, self.switch = scale, switch
        self.train(base.training)

    def forward(self, input: Tensor) -> Tensor:
        out = F.linear(input, self.weight, self.bias)
        if not self.switch.on:
            return out
        # A base in bfloat16 is fed bfloat16; where autocast is on, it sees to the rest.
        low = F.linear(input, self.lora_A.to(input.dtype))
        return out + self.scale * F.linear(low, self.lora_B.to(input.dtype))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, rank={len(self.lora_A)}, scale={self.scale:g}"


@frozen(kw_only=True, eq=False)
class Found:
    """One layer of an adapter that was read."""

    a_RI: Tensor
    b_OR: Tensor
    scale: float


@frozen(kw_only=True, eq=False)
class LiveLoRA:
    """See ``qi_core.adapter.Adapter``."""

    settings: LoRA
    layers: Mapping[str, LoraLinear]
    """By the name of the module."""
    shapes: Mapping[str, tuple[int, int]]
    """(outputs, inputs) of every linear layer of the denoiser, adapted or not."""
    idle: frozenset[str]
    """Linear layers that the denoiser had frozen itself: nothing comes of their output."""
    switch: Switch
    told: list[str] = field(factory=list)

    @contextmanager
    def off(self) -> Generator[None]:
        before, self.switch.on = self.switch.on, False
        try:
            yield
        finally:
            self.switch.on = before

    def sharding(self, of_model: Sharding) -> Sharding:
        """A layer of divided inputs divides A as it does W, and B sees a part of what is summed; a layer of divided
        outputs divides B, and A gets a part of its gradient."""
        weights: dict[str, Split] = dict(of_model.weights)
        for name in self.layers:
            split = of_model.split(f"{name}.weight")
            if split == "rows":
                weights[f"{name}.{A}"], weights[f"{name}.{B}"] = "rows", "partial"
            elif split in ("columns", "heads", "gathered"):
                weights[f"{name}.{A}"], weights[f"{name}.{B}"] = "partial", split
        return evolve(of_model, weights=weights)

    def notes(self) -> tuple[str, ...]:
        return tuple(self.told)

    def load(self, where: str, found: Mapping[str, Found]) -> None:
        """Take weights that were read. Raises QiError where the file adapts other layers, or with another rank."""
        other = [name for name in found if name not in self.layers and name not in self.idle]
        if other:
            raise QiError(
                f"{where}: it adapts {counted(other)}, which adapter.targets leaves out; "
                "name them in targets, so that nothing of it is lost"
            )
        if not any(name in self.layers for name in found):
            raise QiError(f"{where}: it adapts none of the layers that adapter.targets names; name its layers there")
        for name, one in found.items():
            if len(one.a_RI) != self.settings.rank:
                raise QiError(
                    f"{where}: the rank of {name} is {len(one.a_RI)}, but adapter.rank is {self.settings.rank}; "
                    f"set adapter.rank = {len(one.a_RI)}, or leave adapter.weights out"
                )
        with torch.no_grad():
            for name in found.keys() & self.layers.keys():
                layer, one = self.layers[name], found[name]
                layer.lora_A.copy_(one.a_RI)
                layer.lora_B.copy_(one.b_OR if one.scale == layer.scale else one.b_OR * (one.scale / layer.scale))
        fresh = [name for name in self.layers if name not in found]
        unused = [name for name in found if name in self.idle]
        self.told.append(f"lora: starts from {where}")
        if fresh:
            self.told.append(f"lora: not in it, so B starts at zero: {counted(fresh)}")
        if unused:
            self.told.append(f"lora: in it, but left out, for nothing uses their output: {counted(unused)}")


def attach(settings: LoRA, model: DenoiserModule, place: Place) -> LiveLoRA:
    """Freeze the model; put a layer with A and B in the place of each that is meant. Raises QiError if none is."""
    if any(isinstance(module, LoraLinear) for module in model.modules()):
        raise QiError("adapter: there is a LoRA in this denoiser already; build another denoiser")
    linears = {name: module for name, module in model.named_modules() if type(module) is nn.Linear}
    chosen = _chosen(settings.targets, linears)
    idle = frozenset(name for name, module in linears.items() if not module.weight.requires_grad)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
        # As a run that is resumed holds them, so that it computes the same.
        parameter.data = parameter.data.to(place.dtype)
    switch, layers = Switch(), dict[str, LoraLinear]()
    for name in chosen:
        if name in idle:  # a tensor that no gradient reaches would be written, averaged and exported for nothing
            continue
        base = linears[name]
        a_RI = _begin(settings, base, Dice(place.seed, 0).roll(0, f"lora/{name}")).to(base.weight.device)
        b_OR = torch.zeros(base.out_features, settings.rank, device=base.weight.device)
        layers[name] = LoraLinear(base, a_RI, b_OR, settings.scale, switch)
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, layers[name])
    if not layers:
        raise QiError(
            f"adapter.targets: {listed(chosen)} are frozen in the denoiser, which has no use for them; "
            "name layers that it trains"
        )
    trained = sum(layer.lora_A.numel() + layer.lora_B.numel() for layer in layers.values())
    told = [f"lora: {len(layers)} linear layers of {len(linears)} are adapted, {trained:,} values are trained"]
    if left := [name for name in chosen if name in idle]:
        told.append(f"lora: named by targets, but left out, for nothing uses their output: {counted(left)}")
    shapes = {name: (module.out_features, module.in_features) for name, module in linears.items()}
    return LiveLoRA(settings=settings, layers=layers, shapes=shapes, idle=idle, switch=switch, told=told)


def _chosen(patterns: tuple[str, ...], linears: Mapping[str, nn.Linear]) -> list[str]:
    """In the model's order. Raises QiError for a pattern that matches nothing."""
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in linears):
            there = listed(dict.fromkeys(re.sub(r"\b\d+\b", "*", name) for name in linears))
            raise QiError(
                f"adapter.targets: {pattern!r} matches no linear layer; there are {there or 'none'} "
                "(a pattern is held against the whole name)"
            )
    return [name for name in linears if any(fnmatchcase(name, pattern) for pattern in patterns)]


def _begin(settings: LoRA, base: nn.Linear, generator: torch.Generator) -> Tensor:
    """A of one layer: by its name and the seed alone, whatever else is adapted."""
    a_RI = torch.empty(settings.rank, base.in_features)
    if settings.init == "gaussian":
        return a_RI.normal_(0.0, 1 / settings.rank, generator=generator)
    return nn.init.kaiming_uniform_(a_RI, a=math.sqrt(5), generator=generator)


def listed(names: Iterable[str]) -> str:
    """A few of many names."""
    all_of = list(names)
    more = f" and {len(all_of) - SHOWN} more" if len(all_of) > SHOWN else ""
    return ", ".join(all_of[:SHOWN]) + more


def counted(names: Sequence[str]) -> str:
    """How many layers, and a few of their names."""
    return f"{len(names)} layer{'' if len(names) == 1 else 's'} ({listed(names)})"
