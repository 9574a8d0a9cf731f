"""Kind and name -> class. Twins are refused with both owners named; an unknown name lists what is known."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

from qi_core.errors import QiError
from qi_registry import plugins
from qi_registry.kinds import KINDS, Kind
from qi_registry.mistakes import did_you_mean
from qi_registry.plugins import Offer, Plugin, Plugins


class Entry(NamedTuple):
    """A component by name."""

    kind: Kind
    name: str
    component: type[Any]
    plugin: Plugin


class Registry:
    """What the installed plugins offer."""

    def __init__(self, installed: Plugins) -> None:
        self.plugins = installed
        self._entries: dict[tuple[str, str], Entry] = {}

    def names(self, kind: Kind) -> list[str]:
        """All names of a kind, in order, twins and unusable ones included."""
        return sorted({offer.name for offer in self.plugins.offers(kind.hook)})

    def find(self, kind: Kind, name: str) -> Entry:
        """The component of that name. Raises QiError if there is none, or two, or it is no component of the kind.

        What is wrong with one name stops only those who ask for it.
        """
        key = (kind.name, name)
        if key not in self._entries:
            offers = [offer for offer in self.plugins.offers(kind.hook) if offer.name == name]
            if not offers:
                raise QiError(self._unknown(kind, name))
            if len(offers) > 1:
                owners = " and one of ".join(offer.plugin.owner for offer in offers)
                raise QiError(f"two {kind.name}s are called {name!r}: one of {owners}; uninstall or rename one of them")
            self._entries[key] = _checked(kind, offers[0])
        return self._entries[key]

    def name_of(self, component: object, kind: Kind) -> str:
        """The name under which a component's class is offered. Raises QiError if it is offered under none."""
        for offer in self.plugins.offers(kind.hook):
            if offer.given is type(component):
                return offer.name
        raise QiError(
            f"{type(component).__name__}: no plugin offers this class as {kind.a}; "
            "a recipe can only name what is offered"
        )

    def problems(self) -> list[str]:
        """Names that cannot be used, and why: twins, and classes that are no component."""
        told: list[str] = []
        for kind in KINDS.values():
            for name in self.names(kind):
                try:
                    self.find(kind, name)
                except QiError as error:
                    told.append(f"{kind.name} {name!r}: {error}")
        return told

    def _unknown(self, kind: Kind, name: str) -> str:
        others = [other for other in KINDS.values() if other is not kind and name in self.names(other)]
        known = self.names(kind)
        if others:
            text = f"{name!r} is {others[0].a}, not {kind.a}"
        else:
            text = f"no {kind.name} is called {name!r}{did_you_mean(name, known)}"
        text += f" (known: {', '.join(known) or 'none'})"
        broken = self.plugins.broken(kind.hook)
        if broken and not others:
            reasons = ", ".join(f"{plugin.name} of {plugin.distribution}: {why}" for plugin, why in broken)
            text += f"; it may be in a plugin that is broken ({reasons})"
        return text


@cache
def installed() -> Registry:
    """The registry of this environment, found once."""
    return Registry(plugins.load())


def _checked(kind: Kind, offer: Offer) -> Entry:
    """Hold a class to its kind's contract; the plugin's author is told, by way of the owner, what is wrong."""
    import attrs

    from qi_core.place import is_frozen

    component = offer.given
    told = f"{kind.name} {offer.name!r} of {offer.plugin.owner}"
    if not isinstance(component, type):
        raise QiError(f"{told}: found {type(component).__name__}; wanted a class")
    if not is_frozen(component):
        raise QiError(
            f"{told}: {component.__name__} is no frozen attrs class; decorate it with attrs.frozen(kw_only=True)"
        )
    try:
        fields = {field.name for field in attrs.fields(attrs.resolve_types(component))}
    except NameError as error:
        raise QiError(
            f"{told}: a field's type cannot be found ({error}); import it for real, not under TYPE_CHECKING"
        ) from error
    lacking = [need for need in kind.needs if need not in fields and not hasattr(component, need)]
    if lacking:
        raise QiError(f"{told}: {component.__name__} is not {kind.a}: it has no {', '.join(lacking)}")
    if "name" in fields:
        raise QiError(f"{told}: a field is called 'name', the key that picks the component; rename it")
    return Entry(kind, offer.name, component, offer.plugin)
