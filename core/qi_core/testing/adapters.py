"""The contract of adapters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from qi_core.adapter import Adapter, AdapterComponent
from qi_core.data import Condition, Latents
from qi_core.denoiser import DenoiserModule
from qi_core.tensorfiles import forms
from qi_core.testing import fakes
from qi_core.testing.contract import Contract, contract, place, same
from qi_core.weights import load_weights

if TYPE_CHECKING:
    from qi_core.place import Place

STEPS = 3
NO_LAYOUT = "no-such-layout"


def check_adapter(
    component: AdapterComponent,
    *,
    network: Callable[[Place], DenoiserModule] = fakes.network,
    starts_as_the_model: bool = True,
) -> None:
    """``qi_core.adapter.AdapterComponent``: few weights are trained, each of them learns, the others stay what they
    were to the bit, and merged they compute the same.

    ``network``: a denoiser for ``fakes.encoders()`` that the settings fit, if ``fakes.TinyNetwork`` has not the
    modules that they name. ``starts_as_the_model=False``: the settings name weights to start from.
    """
    told, live = (contract(component, f"qi_core.adapter.{kind}") for kind in ("AdapterComponent", "Adapter"))
    with place() as here:
        model, plain = network(here), network(here)
        base = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        before = _velocity(model)
        with told.leaves_random_numbers_alone("apply"):
            adapter = component.apply(model, here)
        again = network(here)
        component.apply(again, here)
        _applied(told, model, base)
        told.holds(same(dict(again.state_dict()), dict(model.state_dict())), "one seed gave two adapters")
        if starts_as_the_model:
            told.holds(torch.equal(_velocity(model), before), "the adapted model computes something else at its start")
        _learns(told, model, base)
        _is_off(live, adapter, model, before)
        told.holds(
            all(isinstance(note, str) for note in adapter.notes()),  # pyright: ignore[reportUnnecessaryIsInstance]
            "notes() gave something else than strings",
        )
        _merged(told, component, model, plain, base)
        _exported(told, component, model, here)


def _velocity(model: DenoiserModule) -> Tensor:
    with torch.no_grad():
        return _asked(model)


def _asked(model: DenoiserModule) -> Tensor:
    """Two samples; one of them has a reference picture."""
    encoders = fakes.encoders()
    latents_width, text_width = encoders.autoencoder.width, encoders.conditioner.width
    latents = Latents(tokens=fakes.normal(10, latents_width, seed=21), grids=((1, 2, 3), (1, 1, 4)))
    condition = Condition(
        text=fakes.normal(5, text_width, seed=22),
        lengths=(3, 2),
        references=Latents(tokens=fakes.normal(4, latents_width, seed=23), grids=((1, 2, 2),)),
        reference_counts=(1, 0),
    )
    return model.velocity(latents, torch.tensor([0.3, 0.8]), condition).tokens


def _applied(told: Contract, model: DenoiserModule, base: Mapping[str, Tensor]) -> None:
    now = model.state_dict()
    lost = [name for name in base if name not in now]
    told.holds(not lost, f"the model's own weights have other names afterwards ({', '.join(lost[:3])} are gone)")
    told.holds(same({name: now[name] for name in base}, base), "apply changed the model's own weights")
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    told.holds(bool(trained), "nothing is trained")
    for name, parameter in trained.items():
        told.holds(name not in base, f"{name} is the model's own and is trained; the model is to be frozen")
        told.holds(parameter.dtype == torch.float32, f"{name} is {parameter.dtype}; trained weights are float32")


def _learns(told: Contract, model: DenoiserModule, base: Mapping[str, Tensor]) -> None:
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    before, reached = _velocity(model), set[str]()
    optimizer = torch.optim.SGD(trained.values(), lr=0.1)
    for _ in range(STEPS):
        optimizer.zero_grad()
        torch.autograd.backward((_asked(model) - 1).square().mean())
        reached |= {name for name, one in trained.items() if one.grad is not None and bool(one.grad.any())}
        optimizer.step()  # pyright: ignore[reportUnknownMemberType]
    idle = [name for name in trained if name not in reached]
    told.holds(
        not idle,
        f"{len(idle)} of {len(trained)} trained tensors get no gradient in {STEPS} steps ({', '.join(idle[:3])}); "
        "leave out what the model does not use",
    )
    now = model.state_dict()
    told.holds(same({name: now[name] for name in base}, base), "training changed the model's own weights")
    told.holds(not torch.equal(_velocity(model), before), f"{STEPS} steps changed nothing of what is computed")


def _is_off(told: Contract, adapter: Adapter, model: DenoiserModule, before: Tensor) -> None:
    adapted = _velocity(model)
    with adapter.off():
        told.holds(torch.equal(_velocity(model), before), "inside off() it does not compute what the plain model does")
        with adapter.off():
            pass
        told.holds(torch.equal(_velocity(model), before), "an off() inside another switches it on when it ends")
    told.holds(torch.equal(_velocity(model), adapted), "after off() it does not compute what it did before")
    try:
        with adapter.off():
            raise KeyError
    except KeyError:
        told.holds(torch.equal(_velocity(model), adapted), "an error inside off() leaves it switched off")


def _merged(
    told: Contract,
    component: AdapterComponent,
    model: DenoiserModule,
    plain: DenoiserModule,
    base: Mapping[str, Tensor],
) -> None:
    source = _Counted(dict(model.state_dict()))
    merged = component.merged(source)
    told.holds(not source.read, f"merged() reads {source.read[:1]} before anything is asked for")
    names, shapes = list(merged), {name: form.shape for name, form in forms(merged).items()}
    told.holds(set(names) == set(base), f"merged() has other names than the plain model: {set(names) ^ set(base)}")
    told.holds(
        all(shapes[name] == tensor.shape == merged[name].shape for name, tensor in base.items()),
        "merged() gives other shapes than the plain model's",
    )
    told.holds(NO_LAYOUT not in merged, "merged() says that it has any name")
    load_weights(plain, merged, "merged()", "it must fit the plain model")
    told.near(
        _velocity(plain), _velocity(model), 1e-5, "merged weights compute another velocity than the adapted model"
    )


def _exported(told: Contract, component: AdapterComponent, model: DenoiserModule, here: Place) -> None:
    before = sorted(here.folder.iterdir())
    target = here.folder / "adapter"
    told.refuses(
        f"the layout {NO_LAYOUT!r}", lambda: component.export(target, dict(model.state_dict()), NO_LAYOUT, None)
    )
    told.holds(sorted(here.folder.iterdir()) == before, "an export that was refused left something behind")


class _Counted(Mapping[str, Tensor]):
    """Tensors on a disk: their forms are known, and each reading is remembered."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors
        self.forms = forms(tensors)
        self.read: list[str] = []

    def __getitem__(self, name: str) -> Tensor:
        self.read.append(name)
        return self._tensors[name]

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)
