"""How the texts of a recipe are laid over one another.

Tables are joined key by key; a plain value is replaced, and so is a list by a list. A table laid upon a list of tables
means its entries by what they are called: ``source.parts.real.weight = 2`` is the part whose ``label``, ``title`` or
``name`` is "real" (a number counts them from 0), and what nobody is called yet is a new entry. A component is replaced
wholly as soon as its name changes, or is given alone (``sampler = "heun"``), since the other keys belonged to the one
before.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeGuard

import attrs

from qi_registry.kinds import NAME, SECTIONS
from qi_registry.mistakes import Called, Layer, Mistake, Where

LABELS = ("label", "title", NAME)
"""The keys that an entry of a list may be called by, the most particular first."""


class New(dict[str, Any]):
    """A new entry of a list, told by what it is called; which of its keys that is depends on what it proves to be."""

    def __init__(self, label: str, table: dict[str, Any], others: Sequence[str] = ()) -> None:
        """``others``: what the entries are called that are there already."""
        super().__init__(table)
        self.label, self.others = label, others


def by_label(value: Any) -> TypeGuard[dict[str, dict[str, Any]]]:
    """Whether a table stands for a list of tables, each called by its key."""
    return isinstance(value, dict) and bool(value) and all(isinstance(item, dict) for item in value.values())


def new_entries(value: dict[str, dict[str, Any]]) -> list[New]:
    """The entries of a list that is told as a table."""
    return [New(label, table) for label, table in value.items()]


class Joined:
    """The sections of all layers together."""

    def __init__(self, layers: Iterable[Layer]) -> None:
        self.table: dict[str, Any] = {}
        self.mistakes: list[Mistake] = []
        self.called: Called = {}
        """What layers call the entries of lists, by their place."""
        for layer in layers:
            for key, over in layer.table.items():
                self.table[key] = self._join(_base(key, self.table.get(key), over), over, (key,))

    def _join(self, base: Any, over: Any, path: Where) -> Any:
        """``over`` laid upon ``base``."""
        if not isinstance(over, dict):
            return over
        if isinstance(base, list):
            return self._entries(base, over, path)
        if isinstance(base, str):  # a component by its name alone
            base = {NAME: base}
        # A recipe's own ``name`` is no component's.
        if not isinstance(base, dict) or (NAME in over and over[NAME] != base.get(NAME, over[NAME])):
            return over
        return base | {key: self._join(base.get(key), item, (*path, key)) for key, item in over.items()}

    def _entries(self, base: Sequence[Any], over: dict[str, Any], path: Where) -> Any:
        """A table upon a list: each key is one entry."""
        if not all(isinstance(item, dict) for item in over.values()):
            return over  # no table of entries: whoever wants a list tells what was found
        entries = list(base)
        for label, table in over.items():
            found = _called(entries, label)
            if len(found) > 1:
                titles = [key for key in LABELS[:-1] if any(isinstance(e, dict) and key in e for e in entries)]
                how = f"its {titles[0]}" if titles else f"its number, such as {found[0]}"
                self.mistakes.append(
                    Mistake((*path, label), f"{len(found)} entries are called {label!r}; call the one meant by {how}")
                )
                continue
            if found:
                (index,) = found
                entry = entries[index]
                made = self._join(entry, table, (*path, index))
                entries[index] = New(entry.label, made, entry.others) if isinstance(entry, New) else made
            else:
                index = len(entries)
                entries.append(New(label, table, _names(entries)))
            self.called.setdefault((*path, index), set()).add(label)
        return entries


def _base(section: str, base: Any, over: Any) -> Any:
    """What a section is before anybody has said something."""
    kind = SECTIONS.get(section)
    if kind is None or not isinstance(over, dict):
        return base
    if kind.many:
        return list(kind.default or ()) if base is None else base
    return kind.default if base is None else base


def _called(entries: Sequence[Any], label: str) -> list[int]:
    """The numbers of the entries that are called so: by the first kind of name that any is known by."""
    for key in LABELS:
        found = [number for number, entry in enumerate(entries) if _name(entry, key) == label]
        if found:
            return found
    return [int(label)] if label.isdecimal() and int(label) < len(entries) else []


def _names(entries: Sequence[Any]) -> list[str]:
    """What the entries of a list are called; a number where one has no name."""
    named = ((next((own for key in LABELS if isinstance(own := _name(e, key), str) and own), "")) for e in entries)
    return [name or str(number) for number, name in enumerate(named)]


def _name(entry: Any, key: str) -> Any:
    if isinstance(entry, str):
        return entry if key == NAME else None
    if isinstance(entry, New) and key == LABELS[0]:
        return entry.label
    return entry.get(key) if isinstance(entry, dict) else None


def label_of(cls: type[Any]) -> str | None:
    """The key that entries of this class are called by, or None."""
    known = {field.name for field in attrs.fields(cls) if field.init}
    return next((key for key in LABELS if key in known), None)


def value_at(table: dict[str, Any], key: str) -> Any:
    """What a resolved recipe's tables say at a key as a line of TOML spells it (``data.filters.clarity.least``); None
    where they say nothing."""
    import tomllib

    try:
        asked: Any = tomllib.loads(f"{key} = 0")
    except tomllib.TOMLDecodeError:
        return None
    here: Any = table
    while isinstance(asked, dict):
        ((step, asked),) = asked.items()
        if isinstance(here, list):
            found = _called(here, step)
            here = here[found[0]] if len(found) == 1 else None
        else:
            here = here.get(step) if isinstance(here, dict) else None
    return here
