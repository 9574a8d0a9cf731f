"""Types in words, for messages and ``qi describe``."""

from __future__ import annotations

import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from qi_registry.kinds import kind_of
from qi_registry.mistakes import show

_WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    Path: "a path",
    type(None): "nothing",
}


def says(annotation: Any) -> str:
    """``int`` -> "a whole number"; the parts of a union are joined by "or"."""
    if kind := kind_of(annotation):
        return kind.a
    origin, members = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return f"one of {', '.join(show(member) for member in members)}"
    if origin in (Union, types.UnionType):
        return " or ".join(says(member) for member in members if member is not type(None))
    if origin is tuple and members[1:] == (Ellipsis,):
        return f"a list, each {says(members[0])}"
    if origin is tuple:
        return f"a list of {len(members)}: {', '.join(says(member) for member in members)}"
    if is_table(annotation):
        return f"a table, each key {says(members[1])}"
    if annotation in _WORDS:
        return _WORDS[annotation]
    return f"a table ({getattr(annotation, '__name__', annotation)})"


def is_table(annotation: Any) -> bool:
    """Whether a field holds a table whose keys the user chooses (``Mapping[str, float]``)."""
    return get_origin(annotation) in (Mapping, dict) and get_args(annotation)[0] is str
