"""Finds plugins by the entry-point group ``qi``, one by one. A broken one is told, never fatal.

The one file that knows pluggy's manager; its untyped calls are wrapped here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any, NamedTuple, cast

import pluggy

from qi_core import hooks
from qi_core.errors import QiError
from qi_registry.kinds import COMMANDS_HOOK, KINDS
from qi_registry.mistakes import did_you_mean

GROUP = "qi"


class Plugin(NamedTuple):
    """An entry point, found."""

    name: str
    module: str
    distribution: str
    version: str

    @property
    def owner(self) -> str:
        """Who answers for it, for messages."""
        return f"{self.distribution} {self.version} (plugin {self.name})"


class Offer(NamedTuple):
    """One name that a plugin gives, as it gave it: nothing is checked yet."""

    plugin: Plugin
    name: str
    given: Any


class Plugins:
    """What is installed. Hooks are called when their kind is first asked for."""

    def __init__(self, points: Iterable[EntryPoint]) -> None:
        self.found: list[Plugin] = []
        self._broken: dict[tuple[Plugin, str], str] = {}  # the hook "" stands for the whole plugin
        self._by_key: dict[str, Plugin] = {}
        self._offers: dict[str, tuple[Offer, ...]] = {}
        self._manager = pluggy.PluginManager(hooks.PROJECT)
        self._manager.add_hookspecs(hooks)
        for point in sorted(points, key=lambda point: (_distribution(point), point.name)):
            self._add(point)

    def offers(self, hook: str) -> tuple[Offer, ...]:
        """All that plugins give to one hook. One that fails is noted in ``broken`` and gives nothing."""
        if hook not in self._offers:
            self._offers[hook] = tuple(offer for impl in self._implementations(hook) for offer in self._call(impl))
        return self._offers[hook]

    def broken(self, *hooks: str) -> list[tuple[Plugin, str]]:
        """Plugins that could not be used for these hooks (for any), and why."""
        asked = hooks or (*(kind.hook for kind in KINDS.values()), COMMANDS_HOOK)
        for hook in asked:
            self.offers(hook)
        return [(plugin, why) for (plugin, hook), why in self._broken.items() if hook in ("", *asked)]

    def _add(self, point: EntryPoint) -> None:
        distribution = point.dist
        plugin = Plugin(point.name, point.value, _distribution(point), distribution.version if distribution else "")
        key = f"{plugin.distribution}:{plugin.name}"
        self.found.append(plugin)
        try:
            module = point.load()
            self._check_names(module)
            self._manager.register(module, key)
        except (Exception, SystemExit) as error:
            self._broken[plugin, ""] = _reason(error)
            # A failed registration may have stored the name and some of the hooks already.
            if self._manager.has_plugin(key):
                self._manager.unregister(name=key)
            return
        self._by_key[key] = plugin

    def _check_names(self, module: ModuleType) -> None:
        """Refuse hooks that would be passed over in silence: misspelt, or without the mark."""
        known = [name for name in vars(hooks) if name.startswith("qi_")]
        for name, value in vars(module).items():
            marked = self._manager.parse_hookimpl_opts(module, name) is not None
            if marked and name not in known:
                raise AttributeError(f"there is no hook {name!r}{did_you_mean(name, known)}")
            if not marked and name in known and callable(value):
                raise AttributeError(f"{name} lacks the mark @hookimpl")

    def _implementations(self, hook: str) -> list[pluggy.HookImpl]:
        caller = cast("pluggy.HookCaller", getattr(self._manager.hook, hook))
        return sorted(caller.get_hookimpls(), key=lambda impl: self.found.index(self._by_key[impl.plugin_name]))

    def _call(self, impl: pluggy.HookImpl) -> list[Offer]:
        """One plugin's answer. Called by itself, so that one that fails takes nobody along."""
        plugin = self._by_key[impl.plugin_name]
        name = impl.function.__name__
        try:
            given: object = impl.function()
            if not isinstance(given, Mapping):
                raise TypeError(f"gave {type(given).__name__}; wanted a mapping of names to classes")
            return [Offer(plugin, str(key), value) for key, value in cast("Mapping[object, Any]", given).items()]
        except (Exception, SystemExit) as error:
            self._broken[plugin, name] = f"{name}: {_reason(error)}"
            return []


def load(only: str | None = None) -> Plugins:
    """The plugins of this environment, or those of one distribution. Raises QiError if that has none."""
    points = entry_points(group=GROUP)
    known = sorted({_distribution(point) for point in points})
    if only is not None and only not in known:
        hint = did_you_mean(only, known)
        raise QiError(f"{only}: no installed distribution of that name has plugins{hint} (known: {', '.join(known)})")
    return Plugins(point for point in points if only in (None, _distribution(point)))


def _distribution(point: EntryPoint) -> str:
    return point.dist.name if point.dist else "unknown"


def _reason(error: BaseException) -> str:
    first, *_ = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
