"""What is installed, in words and as a JSON schema: read from the classes' fields and the text under them."""

from __future__ import annotations

import inspect
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

import attrs

from qi_core.errors import QiError
from qi_core.fielddocs import field_docs
from qi_registry.kinds import KINDS, NAME, Kind, kind_of, kinds_in
from qi_registry.mistakes import show
from qi_registry.recipe import SETTINGS, WORDS, plain
from qi_registry.registry import Registry
from qi_registry.wording import is_table, says

Json = dict[str, Any]
_BOUNDS = {">": "exclusiveMinimum", ">=": "minimum", "<": "exclusiveMaximum", "<=": "maximum"}


class Field(NamedTuple):
    """A recipe's key."""

    name: str
    type: Any
    default: Any
    """``attrs.NOTHING`` where the recipe must say."""
    limits: tuple[tuple[str, float], ...]
    """(">=", 0), ..."""
    doc: str

    @property
    def wanted(self) -> str:
        """Type and range in words."""
        return ", ".join((says(self.type), *(f"{operator} {bound:g}" for operator, bound in self.limits)))

    @property
    def otherwise(self) -> str:
        """The default in words."""
        if self.default is attrs.NOTHING:
            return "(must be given)"
        if self.default is None:
            return "(none)"
        return f"({type(self.default).__name__})" if attrs.has(type(self.default)) else show(self.default)


def fields(cls: type[Any]) -> list[Field]:
    """The keys of a component or a section, in the order in which they were written."""
    docs = field_docs(cls)
    return [
        Field(
            field.name,
            field.type,
            _default(field.default),
            tuple(_limits(field.validator)),
            docs.get(field.name, ""),
        )
        for field in attrs.fields(attrs.resolve_types(cls))
        if field.init
    ]


def first_line(cls: type[Any]) -> str:
    """The one-line documentation of a class; empty if it has none of its own (attrs writes none)."""
    return (inspect.cleandoc(cls.__doc__).splitlines() or [""])[0] if cls.__doc__ else ""


def schema(registry: Registry) -> Json:
    """The JSON schema of recipes, for editors: names, keys, types, ranges, documentation.

    What must be given is not required here, since a file that extends another gives only what differs.
    """
    heads: Json = {word: {"type": "string", "description": doc} for word, doc in WORDS.items()}
    heads["extends"] = {"type": "string", "description": "A recipe to start from: beside this file, or one of qi's."}
    sections: Json = {name: _record(cls, registry) for name, cls in SETTINGS.items()}
    parts: Json = {}
    definitions: Json = {}
    for kind in KINDS.values():
        one: Json = {"$ref": f"#/$defs/{kind.name}"}
        if kind.section:
            parts[kind.name] = {"type": "array", "items": one, "description": kind.doc} if kind.many else one
        definitions[kind.name] = _kind(kind, registry, definitions)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A recipe of qi",
        "type": "object",
        "properties": {**heads, **parts, **sections},
        "additionalProperties": False,
        "$defs": dict(sorted(definitions.items())),
    }


def _kind(kind: Kind, registry: Registry, definitions: Json) -> Json:
    """A name alone or a table. Unusable names are left out; ``qi plugins`` tells them."""
    forms: list[Json] = []
    names: list[str] = []
    for name in registry.names(kind):
        try:
            component = registry.find(kind, name).component
        except QiError:
            continue
        names.append(name)
        table = _record(component, registry)
        table["properties"] = {NAME: {"const": name}, **table["properties"]}
        definitions[f"{kind.name}.{name}"] = table
        forms.append({"$ref": f"#/$defs/{kind.name}.{name}"})
    return {"description": kind.doc, "anyOf": [{"enum": names}, *forms] if names else [False]}


def _record(cls: type[Any], registry: Registry) -> Json:
    properties: Json = {}
    for field in fields(cls):
        entry = _type(field.type, registry) | {_BOUNDS[operator]: bound for operator, bound in field.limits}
        if field.doc:
            entry["description"] = field.doc
        if field.default is not attrs.NOTHING and field.default is not None:
            entry["default"] = plain(field.default, kinds_in(field.type), registry)
        properties[field.name] = entry
    described: Json = {"description": first_line(cls)} if first_line(cls) else {}
    return {**described, "type": "object", "properties": properties, "additionalProperties": False}


def _type(annotation: Any, registry: Registry) -> Json:
    if kind := kind_of(annotation):
        return {"$ref": f"#/$defs/{kind.name}"}
    origin, members = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return {"enum": list(members)}
    if origin in (Union, types.UnionType):
        forms = [_type(member, registry) for member in members if member is not type(None)]
        return forms[0] if len(forms) == 1 else {"anyOf": forms}
    if origin is tuple and members[1:] == (Ellipsis,):
        return {"type": "array", "items": _type(members[0], registry)}
    if origin is tuple:
        each = [_type(member, registry) for member in members]
        return {"type": "array", "prefixItems": each, "minItems": len(each), "maxItems": len(each)}
    if is_table(annotation):
        return {"type": "object", "additionalProperties": _type(members[1], registry)}
    if attrs.has(annotation):
        return _record(annotation, registry)
    scalars = {int: "integer", float: "number", bool: "boolean", str: "string", Path: "string"}
    return {"type": scalars[annotation]} if annotation in scalars else {}


def _default(default: Any) -> Any:
    """attrs' default as a value. A factory that needs the instance has none to tell: it depends on other keys."""
    if isinstance(default, attrs.Factory):  # type: ignore[arg-type]
        return None if default.takes_self else default.factory()
    return default


def _limits(validator: Any) -> Iterator[tuple[str, float]]:
    """The ranges that attrs' own validators hold a number to."""
    for inner in (*getattr(validator, "_validators", ()), getattr(validator, "validator", None)):
        if inner is not None:
            yield from _limits(inner)
    operator = getattr(validator, "compare_op", None)
    if operator in _BOUNDS:
        yield operator, validator.bound
