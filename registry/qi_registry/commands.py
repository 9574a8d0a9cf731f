"""The verbs of the command ``qi``: ours by a table, imported when they are asked for, and those of plugins."""

from __future__ import annotations

from importlib import import_module
from typing import Any, cast

from qi_core.command import Command
from qi_core.errors import QiError
from qi_registry.kinds import COMMANDS_HOOK
from qi_registry.mistakes import did_you_mean
from qi_registry.plugins import Offer, Plugins

BUILT_IN = {
    "run": "qi_registry.verbs.run:Run",
    "produce": "qi_registry.verbs.produce:Produce",
    "set": "qi_registry.verbs.set:Set",
    "sample": "qi_registry.verbs.sample:Sample",
    "import": "qi_registry.verbs.import_:Import",
    "export": "qi_registry.verbs.export:Export",
    "check": "qi_registry.verbs.check:Check",
    "plan": "qi_registry.verbs.plan:Plan",
    "reward": "qi_registry.verbs.reward:Reward",
    "data": "qi_registry.verbs.data:Data",
    "bench": "qi_registry.verbs.bench:Bench",
    "list": "qi_registry.verbs.list:List",
    "describe": "qi_registry.verbs.describe:Describe",
    "plugins": "qi_registry.verbs.plugins:Plugins",
    "schema": "qi_registry.verbs.schema:Schema",
}
"""Verb -> module:class. A class of few lines that satisfies ``qi_core.command.Command``; it imports what it needs in
``run``, so that ``qi --help`` can read its docstring at no cost."""


def built_in(verb: str) -> type[Command]:
    """One of our own verbs."""
    module, name = BUILT_IN[verb].split(":")
    return cast("type[Command]", getattr(import_module(module), name))


def find(verb: str, plugins: Plugins) -> type[Command]:
    """A verb by name. Raises QiError if there is none, or a plugin's cannot be used."""
    offers = _offers(plugins)
    if verb in offers:
        if problem := _problem(verb, offers[verb]):
            raise QiError(problem)
        return cast("type[Command]", offers[verb][0].given)
    known = [*BUILT_IN, *offers]
    text = f"no verb is called {verb!r}{did_you_mean(verb, known)} (known: {', '.join(known)})"
    if broken := plugins.broken(COMMANDS_HOOK):
        text += "; it may be in a plugin that is broken: " + ", ".join(
            f"{plugin.name} ({why})" for plugin, why in broken
        )
    raise QiError(text)


def of_plugins(plugins: Plugins) -> dict[str, type[Command]]:
    """The verbs of plugins that can be used."""
    return {verb: offers[0].given for verb, offers in _offers(plugins).items() if not _problem(verb, offers)}


def problems(plugins: Plugins) -> list[str]:
    """What is wrong with the verbs of plugins."""
    told = (_problem(verb, offers) for verb, offers in _offers(plugins).items())
    return [problem for problem in told if problem]


def _offers(plugins: Plugins) -> dict[str, list[Offer]]:
    offers: dict[str, list[Offer]] = {}
    for offer in plugins.offers(COMMANDS_HOOK):
        offers.setdefault(offer.name, []).append(offer)
    return dict(sorted(offers.items()))


def _problem(verb: str, offers: list[Offer]) -> str:
    owners = " and one of ".join(offer.plugin.owner for offer in offers)
    given: Any = offers[0].given
    if verb in BUILT_IN:
        return f"verb {verb!r} of {owners} is passed over: qi has one of this name"
    if len(offers) > 1:
        return f"two verbs are called {verb!r}: one of {owners}; uninstall or rename one of them"
    if not isinstance(given, type) or not all(callable(getattr(given, need, None)) for need in ("configure", "run")):
        return f"verb {verb!r} of {owners} is no command: wanted a class with configure(parser) and run(args)"
    return ""
