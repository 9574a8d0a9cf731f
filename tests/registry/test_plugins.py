from __future__ import annotations

from importlib.metadata import EntryPoint
from typing import Any

import pytest

from qi_registry.plugins import Plugins


def test_a_hook_gathers_what_every_plugin_gives(publish: Any) -> None:
    plugins = Plugins([publish("one", qi_samplers={"a": 1}), publish("two", qi_samplers={"b": 2, "c": 3})])
    assert [(offer.plugin.name, offer.name) for offer in plugins.offers("qi_samplers")] == [
        ("one", "a"),
        ("two", "b"),
        ("two", "c"),
    ]
    assert plugins.offers("qi_sources") == ()
    assert plugins.broken() == []


@pytest.mark.parametrize(
    ("hooks", "reason"),
    [
        ({"qi_sampler": {}}, "there is no hook 'qi_sampler'; did you mean 'qi_samplers'?"),
        ({"qi_samplers": {}, "mark": False}, "qi_samplers lacks the mark @hookimpl"),
        ({"qi_samplers": ImportError("no module flash_attn\nlong story")}, "ImportError: no module flash_attn"),
        ({"qi_samplers": SystemExit("needs a licence")}, "SystemExit: needs a licence"),
        ({"qi_samplers": ["heun"]}, "gave list; wanted a mapping of names to classes"),
    ],
)
def test_a_broken_plugin_is_told_and_takes_nobody_along(publish: Any, hooks: dict[str, Any], reason: str) -> None:
    plugins = Plugins([publish("bad", **hooks), publish("good", qi_samplers={"a": 1})])
    ((plugin, why),) = plugins.broken()
    assert plugin.name == "bad"
    assert why.endswith(reason)
    assert [offer.name for offer in plugins.offers("qi_samplers")] == ["a"]


def test_a_module_that_cannot_be_imported_is_told(publish: Any) -> None:
    plugins = Plugins([EntryPoint("gone", "no_such_module", "qi"), publish("good", qi_samplers={"a": 1})])
    assert [(plugin.name, why) for plugin, why in plugins.broken()] == [
        ("gone", "ModuleNotFoundError: No module named 'no_such_module'")
    ]
    assert len(plugins.offers("qi_samplers")) == 1


def test_a_module_named_by_two_entry_points_counts_once(publish: Any) -> None:
    point = publish("one", qi_samplers={"a": 1})
    plugins = Plugins([point, EntryPoint("again", point.value, "qi")])
    assert len(plugins.offers("qi_samplers")) == 1
    ((_, why),) = plugins.broken()
    assert "already registered" in why


def test_a_hook_that_fails_leaves_the_plugins_other_hooks(publish: Any) -> None:
    plugins = Plugins([publish("half", qi_samplers={"a": 1}, qi_sources=ImportError("no disk"))])
    assert len(plugins.offers("qi_samplers")) == 1
    assert plugins.broken("qi_samplers") == []
    assert [why for _, why in plugins.broken("qi_sources")] == ["qi_sources: ImportError: no disk"]
