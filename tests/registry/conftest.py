"""Small components of every kind, and a registry of any set of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Literal

import pytest
from attrs import field, frozen, validators

from qi_core.data import Samples
from qi_core.hooks import hookimpl
from qi_core.settings import Shift
from qi_core.source import SourceComponent
from qi_plugins.curriculum_stages.component import Stages
from qi_registry.plugins import Plugins
from qi_registry.registry import Registry


class Built:
    def build(self, *_: Any) -> Any:
        raise AssertionError("reading a recipe builds nothing")


@frozen(kw_only=True)
class Patches(Built):
    """Squares."""

    size: int = 8


@frozen(kw_only=True)
class Letters(Built):
    """Characters."""


@frozen(kw_only=True)
class Net(Built):
    """A network."""

    size: Literal["tiny", "20b"] = "tiny"
    """A preset."""
    depth: int | None = None
    """Blocks; the preset's if it isn't said."""


@frozen(kw_only=True)
class Extra:
    """A few weights more."""

    rank: int = 8

    def apply(self, *_: Any) -> None: ...
    def merged(self, *_: Any) -> None: ...
    def export(self, *_: Any) -> None: ...


@frozen(kw_only=True)
class Flow:
    """Flow matching."""

    takes: ClassVar[type] = Samples

    dropout: float = field(default=0.1, validator=[validators.ge(0), validators.lt(1)])
    """Of captions."""
    shift: Shift = "none"

    def prepare(self, *_: Any) -> None: ...
    def loss(self, *_: Any) -> None: ...


@frozen(kw_only=True)
class Words(Built):
    """Drawn words."""

    gives: ClassVar[type] = Samples

    letters: str = "ABC"
    lengths: tuple[int, int] = (2, 4)
    colours: tuple[str, ...] = ("white",)
    text: Path | None = None


@frozen(kw_only=True)
class Part:
    """One source of several."""

    name: str = ""
    source: SourceComponent[Any]
    weight: float = field(default=1.0, validator=validators.gt(0))


@frozen(kw_only=True)
class Mixture(Built):
    """Several sources."""

    gives: ClassVar[type] = Samples

    parts: tuple[Part, ...]
    bars: Mapping[str, float] = field(factory=dict)
    """Whatever one likes."""
    more: Mapping[str, Part] = field(factory=dict)

    @property
    def weights(self) -> Mapping[str, float]:
        return {part.name or str(number): part.weight for number, part in enumerate(self.parts)}


@frozen(kw_only=True)
class Ranked(Built):
    """Ranked pairs."""

    gives: ClassVar[type] = int


@frozen(kw_only=True)
class Euler:
    """One velocity a step."""

    steps: int = field(default=50, validator=validators.gt(0))
    """Steps from noise to data;
    each calls the denoiser once."""
    shift: Shift = "none"

    def sample(self, *_: Any, **__: Any) -> None: ...


@frozen(kw_only=True)
class Heun(Euler):
    """Two velocities a step."""

    order: int = 2
    """Always two."""


@frozen(kw_only=True)
class AdamW(Built):
    """Adam."""

    lr: float = 1e-3


@frozen(kw_only=True)
class Plain(Built):
    """Nothing to set."""


@frozen(kw_only=True)
class Lines(Built):
    """A log."""


@frozen(kw_only=True)
class Curves(Built):
    """Plots."""


@frozen(kw_only=True)
class Score(Built):
    """A score."""

    every: int = 0
    title: str = ""


OFFERS: dict[str, dict[str, Any]] = {
    "qi_autoencoders": {"patches": Patches},
    "qi_conditioners": {"letters": Letters},
    "qi_denoisers": {"net": Net},
    "qi_adapters": {"extra": Extra},
    "qi_objectives": {"flow": Flow},
    "qi_sources": {"words": Words, "mixture": Mixture, "ranked": Ranked},
    "qi_curriculums": {"stages": Stages},
    "qi_samplers": {"euler": Euler, "heun": Heun},
    "qi_optimizers": {"adamw": AdamW},
    "qi_parallels": {"single": Plain},
    "qi_stores": {"folder": Plain},
    "qi_trackers": {"console": Plain, "jsonl": Lines, "tensorboard": Curves},
    "qi_evaluations": {"score": Score},
}

Publish = Callable[..., EntryPoint]


@pytest.fixture
def publish(monkeypatch: pytest.MonkeyPatch) -> Publish:
    """Makes a module of hooks importable, as an installed plugin is. A hook's answer may be an error to raise."""

    def publish(name: str, *, mark: bool = True, **answers: Any) -> EntryPoint:
        module = ModuleType(f"published_{name}")
        for hook, answer in answers.items():
            setattr(module, hook, (hookimpl if mark else lambda function: function)(_answering(hook, answer)))
        monkeypatch.setitem(sys.modules, module.__name__, module)
        return EntryPoint(name, module.__name__, "qi")

    return publish


def _answering(hook: str, answer: Any) -> Callable[[], Any]:
    def function() -> Any:
        if isinstance(answer, BaseException):
            raise answer
        return answer

    function.__name__ = hook
    return function


@pytest.fixture
def registry(publish: Publish) -> Registry:
    """One plugin that gives all of the above."""
    return Registry(Plugins([publish("all", **OFFERS)]))
