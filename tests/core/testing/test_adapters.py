"""Wrong adapters are told what they break."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from attrs import frozen
from torch import Tensor, nn

from qi_core import Adapter, DenoiserModule, Place, QiError
from qi_core.testing import check_adapter


class Live:
    """A factor on the output of one layer: (1 + gain)."""

    def __init__(self, layer: nn.Module) -> None:
        self.layer, self.on = layer, True

    @contextmanager
    def off(self) -> Generator[None]:
        before, self.on = self.on, False
        try:
            yield
        finally:
            self.on = before

    def notes(self) -> tuple[str, ...]:
        return ("one gain",)


class Layer(nn.Linear):
    live: Any
    gain: nn.Parameter

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x) * (1 + self.gain) if self.live.on else super().forward(x)


@frozen(kw_only=True)
class Gain:
    """An adapter, right; what follows breaks it in one place each."""

    def apply(self, model: DenoiserModule, place: Place) -> Adapter:
        model.requires_grad_(False)
        layer: Any = model.get_submodule("outward")
        layer.__class__ = Layer
        layer.gain = nn.Parameter(self.start(place))
        layer.live = self.live(layer)
        return layer.live  # type: ignore[no-any-return]

    def start(self, place: Place) -> Tensor:
        return torch.zeros(3)

    def live(self, layer: nn.Module) -> Live:
        return Live(layer)

    def merged(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return Scaled(tensors)

    def export(self, path: Path, tensors: Mapping[str, Tensor], layout: str, dtype: torch.dtype | None) -> None:
        raise QiError(f"{layout}: no layout is called so; there is none")


class Scaled(Mapping[str, Tensor]):
    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = tensors

    def __getitem__(self, name: str) -> Tensor:
        if name == "outward.gain":
            raise KeyError(name)
        value = self.tensors[name]
        gain = 1 + self.tensors["outward.gain"]
        if not name.startswith("outward"):
            return value
        return value * (gain[:, None] if value.ndim == 2 else gain)

    def __iter__(self) -> Any:
        return (name for name in self.tensors if name != "outward.gain")

    def __len__(self) -> int:
        return len(self.tensors) - 1


class Unfrozen(Gain):
    def apply(self, model: DenoiserModule, place: Place) -> Adapter:
        live = super().apply(model, place)
        model.get_parameter("time.bias").requires_grad_(True)
        return live


class Renamed(Gain):
    def apply(self, model: DenoiserModule, place: Place) -> Adapter:
        live = super().apply(model, place)
        model.text, model.words = nn.Identity(), model.text  # type: ignore[assignment]
        model.text.forward = model.words.forward  # type: ignore[method-assign, union-attr]
        return live


class Half(Gain):
    def start(self, place: Place) -> Tensor:
        return torch.zeros(3, dtype=torch.bfloat16)


class Loud(Gain):
    def start(self, place: Place) -> Tensor:
        return torch.full((3,), 0.5)


class Dicing(Gain):
    def start(self, place: Place) -> Tensor:
        return torch.zeros(3) * torch.rand(3)


class Idle(Gain):
    """A weight that nothing uses, such as a B behind a forward that was overwritten."""

    def apply(self, model: DenoiserModule, place: Place) -> Adapter:
        live = super().apply(model, place)
        model.unused = nn.Parameter(torch.zeros(2))
        return live


class NeverOff(Gain):
    def live(self, layer: nn.Module) -> Live:
        class Stuck(Live):
            @contextmanager
            def off(self) -> Generator[None]:
                yield

        return Stuck(layer)


class OffForGood(Gain):
    """Has no ``finally``."""

    def live(self, layer: nn.Module) -> Live:
        class Careless(Live):
            @contextmanager
            def off(self) -> Generator[None]:
                before, self.on = self.on, False
                yield
                self.on = before

        return Careless(layer)


class OnTooSoon(Gain):
    """Forgets that it may be off already."""

    def live(self, layer: nn.Module) -> Live:
        class Forgetful(Live):
            @contextmanager
            def off(self) -> Generator[None]:
                self.on = False
                try:
                    yield
                finally:
                    self.on = True

        return Forgetful(layer)


class MergedNothing(Gain):
    def merged(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return {name: tensor for name, tensor in tensors.items() if name != "outward.gain"}


class MergedIdly(Gain):
    """Lazy, but leaves the adapter out."""

    def merged(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        class Left(Scaled):
            def __getitem__(self, name: str) -> Tensor:
                return self.tensors[name] if name != "outward.gain" else super().__getitem__(name)

        return Left(tensors)


class AnyLayout(Gain):
    def export(self, path: Path, tensors: Mapping[str, Tensor], layout: str, dtype: torch.dtype | None) -> None:
        path.write_text(layout)


class LeavesFiles(Gain):
    def export(self, path: Path, tensors: Mapping[str, Tensor], layout: str, dtype: torch.dtype | None) -> None:
        path.mkdir()
        raise QiError("no")


def test_a_right_adapter_passes() -> None:
    check_adapter(Gain())


def test_one_that_starts_from_weights_says_so() -> None:
    check_adapter(Loud(), starts_as_the_model=False)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (Unfrozen, r"time\.bias is the model's own and is trained"),
        (Renamed, "the model's own weights have other names afterwards"),
        (Half, r"trained weights are float32"),
        (Loud, "the adapted model computes something else at its start"),
        (Dicing, "draws from the global generator of torch"),
        (Idle, r"1 of 2 trained tensors get no gradient in 3 steps \(unused\)"),
        (NeverOff, r"inside off\(\) it does not compute what the plain model does"),
        (OnTooSoon, r"an off\(\) inside another switches it on"),
        (OffForGood, r"an error inside off\(\) leaves it switched off"),
        (MergedNothing, r"merged\(\) reads .* before anything is asked for"),
        (MergedIdly, "merged weights compute another velocity"),
        (AnyLayout, "the layout 'no-such-layout' was taken"),
        (LeavesFiles, "an export that was refused left something behind"),
    ],
)
def test_a_wrong_one_is_told(wrong: type[Gain], told: str) -> None:
    with pytest.raises(AssertionError, match=told):
        check_adapter(wrong())
