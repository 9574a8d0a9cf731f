"""Mistakes of a recipe: what they say and on which line they stand."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

Where = tuple[str | int, ...]
"""Where in a recipe: ``("tracker", 0, "every")``."""
Called: TypeAlias = dict[Where, set[str]]
"""What the entry of a list at a place is called, where a text says ``source.parts.real`` in place of its number."""
_NOTHING: Called = {}


class Mistake(NamedTuple):
    """One, not yet located in a text."""

    path: Where
    what: str


class Layer(NamedTuple):
    """One text that a recipe is made of: the file it extends, the file, each ``--set``."""

    where: str
    text: str
    table: dict[str, Any]
    lines: bool
    """Whether to tell lines (a ``--set`` has none)."""

    def tell(self, mistake: Mistake, prefix: Where, called: Called = _NOTHING) -> str:
        """``file:line: section.key: what``, where ``prefix`` of the mistake's path is what stands in this layer."""
        line = line_of(self.text, prefix, called) if self.lines and prefix else 0
        where = f"{self.where}:{line}" if line else self.where
        return f"{where}: {dotted(mistake.path)}: {mistake.what}" if mistake.path else f"{where}: {mistake.what}"


def locate(mistakes: Iterable[Mistake], layers: Sequence[Layer], called: Called = _NOTHING) -> list[str]:
    """Each mistake with its place, in the order of the texts: the last layer that holds the key, else its section."""
    told: list[tuple[int, int, str]] = []
    for mistake in mistakes:
        layer, prefix = next(_holders(mistake.path, layers, called))
        line = line_of(layer.text, prefix, called) if prefix else 0
        told.append((layers.index(layer), line, layer.tell(mistake, prefix, called)))
    return [text for _, _, text in sorted(told, key=lambda item: item[:2])]


def _holders(path: Where, layers: Sequence[Layer], called: Called) -> Iterator[tuple[Layer, Where]]:
    for length in range(len(path), 0, -1):
        for layer in reversed(layers):
            if holds(layer.table, path[:length], called):
                yield layer, path[:length]
    # Nobody wrote it: a section that is missing, or a default. The file is where to write it.
    yield next((layer for layer in reversed(layers) if layer.lines), layers[-1]), ()


def holds(table: Any, path: Where, called: Called = _NOTHING) -> bool:
    """Whether there is something at ``path``."""
    here: Any = table
    for depth, step in enumerate(path, 1):
        if isinstance(step, int) and isinstance(here, dict):  # entries of a list, each called by its key
            names = called.get(path[:depth], set(list(here)[step : step + 1]))
            step = next((name for name in here if name in names), step)
        try:
            here = here[step]
        except (KeyError, IndexError, TypeError):
            return False
    return True


def line_of(text: str, path: Where, called: Called = _NOTHING) -> int:
    """The line, counted from 1, on which the key begins.

    tomllib tells no positions. But the shortest readable head of the text that holds the key ends where the key's
    value ends, and it begins after the readable head before that one.
    """
    lines = text.splitlines()
    begin = 1
    for end in range(1, len(lines) + 1):
        try:
            head = tomllib.loads("\n".join(lines[:end]))
        except tomllib.TOMLDecodeError:
            continue
        if holds(head, path, called):
            return begin
        begin = end + 1
    return 0


def dotted(path: Where) -> str:
    """``tracker[0].every``; tables are counted from 0 as everywhere in Python."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``; did you mean 'heun'?``, or nothing where no known name is near."""
    from difflib import get_close_matches

    lowered = {candidate.lower(): candidate for candidate in known}
    near = get_close_matches(name.lower(), lowered, n=1, cutoff=0.6)
    return f"; did you mean {lowered[near[0]]!r}?" if near else ""


def show(value: object) -> str:
    """A value as a recipe spells it, shortened."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "a table"
    text = repr(list(value) if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value)
    return text if len(text) <= 60 else f"{text[:57]}..."
