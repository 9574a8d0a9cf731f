"""Tables -> typed objects by cattrs: unknown keys forbidden, scalars strict, every mistake collected."""

from __future__ import annotations

import math
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Union, cast, get_args, get_origin

import attrs
from cattrs import (
    AttributeValidationNote,
    BaseValidationError,
    ClassValidationError,
    Converter,
    ForbiddenExtraKeysError,
    IterableValidationNote,
)
from cattrs.gen import make_dict_structure_fn

from qi_core.errors import QiError
from qi_registry.joining import New, by_label, label_of, new_entries
from qi_registry.kinds import NAME, Kind, kind_of
from qi_registry.mistakes import Mistake, Where, did_you_mean, show
from qi_registry.registry import Registry
from qi_registry.wording import is_table, says

Hook = Callable[[Any, Any], Any]


class Wrong(ValueError):
    """A value that does not fit; the text goes to the user as it is."""


class Structurer:
    """Makes typed objects of what a recipe's text says, with the names of one registry."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._converter = Converter(forbid_extra_keys=True, detailed_validation=True)
        for scalar, hook in _SCALARS.items():
            self._converter.register_structure_hook(scalar, hook)
        for fits, factory in (
            (attrs.has, self._record),
            (_is_tuple, self._tuple),
            (is_table, self._table),
            (_is_literal, _literal),
            (_is_union, self._union),
            (_is_component, self._nested_component),
        ):
            self._converter.register_structure_hook_factory(fits, factory)

    def section(self, value: Any, wanted: Any, path: Where) -> tuple[Any, list[Mistake]]:
        """``value`` as a ``wanted`` (a kind or a type), or every mistake in it."""
        try:
            if isinstance(wanted, Kind):
                return self.component(value, wanted), []
            return self._converter.structure(value, wanted), []
        except Exception as error:
            place = _place(error)
            return None, list(_unfold(error, path if place is None else (*path, place)))

    def component(self, value: Any, kind: Kind) -> Any:
        """A component, from its name alone or from a table with its name and settings."""
        table: dict[str, Any] = value if isinstance(value, dict) else {NAME: value}
        if isinstance(table, New):
            table = {NAME: table.label, **table}
        if not isinstance(table.get(NAME), str):
            found = "a table without a name" if isinstance(value, dict) and NAME not in value else show(value)
            known = ", ".join(self._registry.names(kind)) or "none"
            raise Wrong(f"found {found}; wanted the name of {kind.a}, or a table with its name (known: {known})")
        try:
            entry = self._registry.find(kind, table[NAME])
        except QiError as error:
            wrong = Wrong(str(error))
            if isinstance(value, dict):
                wrong.add_note(AttributeValidationNote("the name", NAME, str))
            raise wrong from error
        settings = {key: item for key, item in table.items() if key != NAME}
        if isinstance(value, New) and value.label != table[NAME]:
            key = label_of(entry.component)
            if key is None:
                own = table[NAME]
                raise Wrong(f"{own} has no title or label, so it is called by its name; write {own} for {value.label}")
            settings = {key: value.label, **settings}
        return self._converter.structure(settings, entry.component)

    def _nested_component(self, annotation: Any) -> Hook:
        kind = cast("Kind", kind_of(annotation))
        return lambda value, _: self.component(value, kind)

    def _record(self, cls: type[Any]) -> Hook:
        make = make_dict_structure_fn(cls, self._converter)

        def structure(value: Any, _: Any) -> Any:
            if isinstance(value, New):
                value = _new_record(value, cls)
            if not isinstance(value, dict):
                raise Wrong(f"found {show(value)}; wanted a table of settings")
            try:
                return make(value, cls)
            except ClassValidationError as failed:
                noted = [error for error in failed.exceptions if _place(error) is not None or _is_extra(error)]
                bad = {_place(error) for error in noted} | {key for error in noted for key in _extra_keys(error)}
                rest = {key: item for key, item in value.items() if key not in bad}
                errors = noted + self._out_of_range(rest, cls)
                raise _group(errors or failed.exceptions, cls) from None

        return structure

    def _out_of_range(self, settings: dict[str, Any], cls: type[Any]) -> list[Exception]:
        """What the validators say of settings that fit their types, each asked by itself: attrs stops at the first."""
        partial = object.__new__(cls)
        given = [field for field in attrs.fields(cls) if field.name in settings and field.converter is None]
        for field in given:
            value = self._converter.structure(settings[field.name], field.type)
            object.__setattr__(partial, field.name, value)
        errors: list[Exception] = []
        for field in given:
            if field.validator is None:
                continue
            try:
                field.validator(partial, field, getattr(partial, field.name))
            except AttributeError:
                continue  # it asks for another key, which was not given or is wrong itself
            except Exception as error:
                error.add_note(AttributeValidationNote(f"field {field.name}", field.name, field.type))
                errors.append(error)
        return errors

    def _tuple(self, annotation: Any) -> Hook:
        members = get_args(annotation)
        endless = len(members) == 2 and members[1] is Ellipsis

        def structure(value: Any, _: Any) -> Any:
            if endless and by_label(value):
                value = new_entries(value)
            if not isinstance(value, list | tuple):
                raise Wrong(f"found {show(value)}; wanted {says(annotation)}; write [{show(value)}]")
            items = list(value)
            if not endless and len(items) != len(members):
                raise Wrong(f"found {len(items)} values; wanted {says(annotation)}")
            made: list[Any] = []
            errors: list[Exception] = []
            for index, item in enumerate(items):
                wanted = members[0] if endless else members[index]
                try:
                    made.append(self._converter.structure(item, wanted))
                except Exception as error:
                    error.add_note(IterableValidationNote(f"item {index}", index, wanted))
                    errors.append(error)
            if errors:
                raise _group(errors, tuple)
            return tuple(made)

        return structure

    def _table(self, annotation: Any) -> Hook:
        """Keys that the user chooses."""
        _, wanted = get_args(annotation)

        def structure(value: Any, _: Any) -> Any:
            if not isinstance(value, dict):
                raise Wrong(f"found {show(value)}; wanted {says(annotation)}")
            made: dict[str, Any] = {}
            errors: list[Exception] = []
            for key, item in value.items():
                try:
                    made[key] = self._converter.structure(item, wanted)
                except Exception as error:
                    error.add_note(AttributeValidationNote(f"key {key}", key, wanted))
                    errors.append(error)
            if errors:
                raise _group(errors, dict)
            return made

        return structure

    def _union(self, annotation: Any) -> Hook:
        members = get_args(annotation)
        nested = [member for member in members if kind_of(member) or attrs.has(member)]

        def structure(value: Any, _: Any) -> Any:
            if value is None and type(None) in members:
                return None
            for member in members:
                if member in nested or member is type(None):
                    continue
                try:
                    return self._converter.structure(value, member)
                except Exception:
                    continue
            if nested and isinstance(value, dict | str):
                return self._converter.structure(value, nested[0])
            raise _unfit(value, annotation)

        return structure


def _new_record(entry: New, cls: type[Any]) -> dict[str, Any]:
    """A new entry as an ordinary table. One that lacks something is more likely an old one, misspelt."""
    key = label_of(cls)
    if key is None:
        raise Wrong(f"{entry.label!r}: these have no name to call them by; wanted a number, or the whole list")
    table = {key: entry.label, **entry}
    lacking = [field.name for field in attrs.fields(cls) if field.default is attrs.NOTHING and field.name not in table]
    if lacking and entry.others:
        hint = did_you_mean(entry.label, entry.others) or f" (known: {', '.join(entry.others)})"
        raise Wrong(f"none is called {entry.label!r}{hint}; for a new one, give {' and '.join(lacking)} too")
    return table


def _text(value: Any, _: Any) -> str:
    if not isinstance(value, str):
        raise Wrong(f"found {show(value)}; wanted text; put it in quotes")
    return value


def _whole(value: Any, _: Any) -> int:
    if type(value) is not int:
        raise Wrong(f"found {show(value)}; wanted a whole number")
    return value


def _number(value: Any, _: Any) -> float:
    if type(value) not in (int, float):
        raise Wrong(f"found {show(value)}; wanted a number")
    try:
        number = float(value)
    except OverflowError:
        raise Wrong("found a number beyond what a float can hold") from None
    if not math.isfinite(number):
        raise Wrong(f"found {show(value)}; wanted a number that is finite")
    return number


def _flag(value: Any, _: Any) -> bool:
    if not isinstance(value, bool):
        raise Wrong(f"found {show(value)}; wanted true or false")
    return value


def _path(value: Any, _: Any) -> Path:
    if not isinstance(value, str) or not value:
        raise Wrong(f"found {show(value)}; wanted a path in quotes")
    return Path(value).expanduser()


_SCALARS: dict[type[Any], Hook] = {str: _text, int: _whole, float: _number, bool: _flag, Path: _path}


def _literal(annotation: Any) -> Hook:
    allowed = get_args(annotation)

    def structure(value: Any, _: Any) -> Any:
        for candidate in allowed:
            if type(candidate) is type(value) and candidate == value:  # true is no 1
                return candidate
        raise _unfit(value, annotation)

    return structure


def _unfit(value: Any, annotation: Any) -> Wrong:
    parts = get_args(annotation) if _is_union(annotation) else (annotation,)
    words = [word for part in parts if _is_literal(part) for word in get_args(part) if isinstance(word, str)]
    hint = did_you_mean(value, words) if isinstance(value, str) else ""
    return Wrong(f"found {show(value)}; wanted {says(annotation)}{hint}")


def _is_tuple(annotation: Any) -> bool:
    return get_origin(annotation) is tuple


def _is_literal(annotation: Any) -> bool:
    return get_origin(annotation) is Literal


def _is_union(annotation: Any) -> bool:
    return get_origin(annotation) in (Union, types.UnionType)


def _is_component(annotation: Any) -> bool:
    return kind_of(annotation) is not None


def _is_extra(error: BaseException) -> bool:
    return isinstance(error, ForbiddenExtraKeysError)


def _extra_keys(error: BaseException) -> set[str]:
    return error.extra_fields if isinstance(error, ForbiddenExtraKeysError) else set()


def _group(errors: Sequence[Exception], cls: type[Any]) -> BaseValidationError:
    return ClassValidationError("several", errors, cls)  # pyright: ignore[reportCallIssue] - ExceptionGroup's __new__


def _place(error: BaseException) -> str | int | None:
    """The key or index that was noted on an error."""
    for note in reversed(getattr(error, "__notes__", [])):
        if isinstance(note, AttributeValidationNote):
            return note.name
        if isinstance(note, IterableValidationNote):
            return note.index
    return None


def _unfold(error: BaseException, path: Where) -> Iterator[Mistake]:
    """cattrs' tree of errors -> mistakes with paths."""
    if isinstance(error, BaseValidationError):
        for inner in error.exceptions:
            place = _place(inner)
            yield from _unfold(inner, path if place is None else (*path, place))
    elif isinstance(error, ForbiddenExtraKeysError):
        known = [field.name for field in attrs.fields(error.cl) if field.init]
        for key in sorted(error.extra_fields):
            hint = did_you_mean(key, known) or f" (known: {', '.join(known) or 'none'})"
            yield Mistake((*path, key), f"unknown key{hint}")
    elif isinstance(error, KeyError) and _place(error) is not None:
        note = next(note for note in error.__notes__ if isinstance(note, AttributeValidationNote))
        yield Mistake(path, f"missing; wanted {says(note.type)}")
    else:
        yield Mistake(path, str(error.args[0]) if error.args else type(error).__name__)
