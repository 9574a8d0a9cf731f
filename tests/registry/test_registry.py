from __future__ import annotations

import importlib
from typing import Any, ClassVar

import attrs
import pytest

from qi_core import hooks
from qi_core.errors import QiError
from qi_registry.kinds import COMMANDS_HOOK, KINDS
from qi_registry.plugins import Plugins
from qi_registry.registry import Registry

SAMPLER = KINDS["sampler"]


@attrs.frozen
class Good:
    def sample(self) -> None: ...


class NoAttrs:
    def sample(self) -> None: ...


@attrs.define
class Mutable:
    steps: int = 1

    def sample(self) -> None: ...


@attrs.frozen
class Idle:
    steps: int = 1


@attrs.frozen
class Named:
    name: str = "x"

    def sample(self) -> None: ...


@attrs.frozen
class Unresolvable:
    steps: Nowhere = 1  # type: ignore[name-defined]  # noqa: F821

    def sample(self) -> None: ...


def of(publish: Any, *samplers: dict[str, Any]) -> Registry:
    return Registry(Plugins([publish(f"plugin{i}", qi_samplers=given) for i, given in enumerate(samplers)]))


def test_the_kinds_are_those_of_the_core() -> None:
    """Every hook has its kind; what a kind needs is what its protocol has."""
    specified = {name for name in vars(hooks) if name.startswith("qi_")}
    assert specified == {kind.hook for kind in KINDS.values()} | {COMMANDS_HOOK}
    for kind in KINDS.values():
        module, _, name = kind.protocol.rpartition(".")
        protocol = getattr(importlib.import_module(module), name)
        members = {member for member in (*vars(protocol), *protocol.__annotations__) if not member.startswith("_")}
        if name not in ("Autoencoder", "Conditioner"):  # those are built by a Component
            assert members == set(kind.needs), kind.name


def test_a_component_is_found_by_kind_and_name(publish: Any) -> None:
    entry = of(publish, {"good": Good}).find(SAMPLER, "good")
    assert entry.component is Good
    assert entry.plugin.name == "plugin0"


def test_twins_are_refused_with_both_owners_and_stop_nobody_else(publish: Any) -> None:
    registry = of(publish, {"twin": Good, "other": Good}, {"twin": Idle})
    assert registry.find(SAMPLER, "other").component is Good
    with pytest.raises(QiError, match=r"two samplers are called 'twin': one of .*plugin0.* and one of .*plugin1"):
        registry.find(SAMPLER, "twin")
    assert len(registry.problems()) == 1


def test_an_unknown_name_lists_what_is_known(publish: Any) -> None:
    with pytest.raises(QiError) as error:
        of(publish, {"heun": Good, "euler": Good}).find(SAMPLER, "hein")
    assert str(error.value) == "no sampler is called 'hein'; did you mean 'heun'? (known: euler, heun)"


def test_a_name_of_another_kind_is_told(registry: Registry) -> None:
    with pytest.raises(QiError, match="'adamw' is an optimizer, not a sampler"):
        registry.find(SAMPLER, "adamw")


def test_a_broken_plugin_is_mentioned_where_a_name_is_missing(publish: Any) -> None:
    registry = Registry(Plugins([publish("bad", qi_samplers=ImportError("no flash"), qi_sources=OSError("x"))]))
    with pytest.raises(QiError, match=r"it may be in a plugin that is broken \(bad of .*no flash\)$"):
        registry.find(SAMPLER, "flash")


@pytest.mark.parametrize(
    ("component", "what"),
    [
        (NoAttrs, "NoAttrs is no frozen attrs class"),
        (Mutable, "Mutable is no frozen attrs class"),
        (Good(), "found Good; wanted a class"),
        (Idle, "Idle is not a sampler: it has no sample"),
        (Named, "a field is called 'name'"),
        (Unresolvable, "name 'Nowhere' is not defined"),
    ],
)
def test_a_class_that_is_no_component_is_told_with_its_owner(publish: Any, component: Any, what: str) -> None:
    registry = of(publish, {"bad": component, "good": Good})
    with pytest.raises(QiError, match=r"sampler 'bad' of .*plugin0") as error:
        registry.find(SAMPLER, "bad")
    assert what in str(error.value)
    assert registry.find(SAMPLER, "good").component is Good


def test_class_variables_and_fields_count_as_what_a_kind_needs(publish: Any) -> None:
    @attrs.frozen
    class Source:
        gives: ClassVar[type] = int

        def build(self) -> None: ...

    @attrs.frozen(slots=False)
    class Evaluation:
        every: int

        def build(self) -> None: ...

    registry = Registry(Plugins([publish("p", qi_sources={"s": Source}, qi_evaluations={"e": Evaluation})]))
    assert registry.problems() == []
