"""Reads recipes: a file, the one it extends, and ``--set``s, into one checked Recipe or every mistake at once.

How the texts are laid over one another is told in ``joining``. A file that extends another takes over everything but
``name`` and ``folder``: it is another run.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from qi_core.errors import QiError, RecipeError
from qi_registry import curricula
from qi_registry.joining import Joined, by_label, new_entries
from qi_registry.kinds import SECTIONS, Kind
from qi_registry.mistakes import Layer, Mistake, did_you_mean, locate, show
from qi_registry.recipe import SETTINGS, WORDS, Recipe
from qi_registry.registry import Registry, installed
from qi_registry.structure import Structurer

EXTENDS = "extends"
_HERE = Path(__file__).parent
_PACKAGED = next((place for place in (_HERE / "recipes", _HERE.parents[1] / "recipes") if place.is_dir()), None)
"""The recipes that come with qi: inside the wheel, or at the root of a checkout."""


def read(recipe: str | Path, sets: Sequence[str] = (), registry: Registry | None = None) -> Recipe:
    """A recipe by path, or by the name of one that comes with qi (``recipes/pretrain.toml``, ``pretrain``).

    Raises RecipeError with every mistake, each with its line.
    """
    path = find(recipe)
    return loads(_text(path), where=_shown(path), name=path.stem, sets=sets, beside=path.parent, registry=registry)


def loads(
    text: str,
    *,
    where: str,
    name: str = "",
    sets: Sequence[str] = (),
    sets_as: str = "--set ",
    beside: Path | None = None,
    registry: Registry | None = None,
) -> Recipe:
    """A recipe from its text.

    ``where``: what mistakes call it; ``sets_as``: what they put before a line of ``sets``; ``beside``: the folder in
    which a recipe that it extends is looked for first.
    """
    told: list[str] = []
    file = _parsed(where, text, told)
    layers = [file]
    if EXTENDS in file.table:
        layers.insert(0, _base(file, beside, told))
    layers += [_setting(line, f"{sets_as}{line}", told) for line in sets]
    return _checked(layers, told, name or Path(where).stem, registry)


def find(recipe: str | Path) -> Path:
    """The file of a recipe. Raises QiError if there is none."""
    path = Path(recipe)
    if path.is_file():
        return path
    known = packaged()
    name = path.name if path.suffix else f"{path.name}.toml"
    if name in known and path.parent.as_posix() in (".", "recipes"):
        return known[name]
    found = "is a folder" if path.is_dir() else "no such recipe"
    stems = {Path(each).stem: each for each in known}
    hint = did_you_mean(path.stem, stems)
    raise QiError(f"{recipe}: {found}; wanted a TOML file or a recipe of qi's ({', '.join(stems) or 'none'}){hint}")


def packaged() -> dict[str, Path]:
    """The recipes that come with qi, by file name."""
    return {path.name: path for path in sorted(_PACKAGED.glob("*.toml"))} if _PACKAGED else {}


def _shown(path: Path) -> str:
    """A path as short as it can be said from here."""
    try:
        return str(path.resolve().relative_to(Path.cwd())) if path.is_absolute() else str(path)
    except ValueError:
        return str(path)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise QiError(f"{path}: cannot be read ({error}); wanted a TOML file in UTF-8") from error


def _parsed(where: str, text: str, told: list[str]) -> Layer:
    try:
        return Layer(where, text, tomllib.loads(text), True)
    except tomllib.TOMLDecodeError as error:
        place = re.search(r" \(at line (\d+), column (\d+)\)$", str(error))
        line = int(place[1]) if place else len(text.splitlines())
        what = str(error)[: place.start()] if place else str(error).removesuffix(" (at end of document)")
        told.append(f"{where}:{line}: not readable as TOML: {what}")
        raise RecipeError(told) from error


def _base(file: Layer, beside: Path | None, told: list[str]) -> Layer:
    """The recipe that a file extends. Mistakes in reaching it are told on the line that names it."""
    wanted = file.table.pop(EXTENDS)
    at = (EXTENDS,)
    line = Layer(file.where, file.text, {EXTENDS: wanted}, True)
    try:
        if not isinstance(wanted, str):
            raise QiError(f"found {show(wanted)}; wanted the path of a recipe in quotes")
        near = beside / wanted if beside else None
        path = near if near is not None and near.is_file() else find(wanted)
        base = _parsed(_shown(path), _text(path), told)
    except RecipeError:
        raise
    except QiError as error:
        told += [line.tell(Mistake(at, str(error)), at)]
        return Layer(file.where, "", {}, True)
    if EXTENDS in base.table:
        what = f"{base.where} extends {show(base.table.pop(EXTENDS))} itself; one level is all there is"
        told += [line.tell(Mistake(at, what), at)]
    for key in ("name", "folder"):
        base.table.pop(key, None)
    return base


def _setting(text: str, where: str, told: list[str]) -> Layer:
    """A line of TOML; a value that isn't TOML is text without its quotes."""
    key, equals, value = (part.strip() for part in text.partition("="))
    table: dict[str, Any] = {}
    if not (key and equals) or "\n" in text or key.startswith("["):
        told.append(f"{where}: wanted one key=value, such as train.steps=10")
        return Layer(where, text, table, False)
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        quoted = value.replace("\\", "\\\\").replace('"', '\\"')
        try:
            table = tomllib.loads(f'{key} = "{quoted}"')
        except tomllib.TOMLDecodeError as error:
            told.append(f"{where}: not readable as a line of TOML ({error}); wanted key=value")
    if EXTENDS in table:
        told.append(f"{where}: extends: only a file can extend another")
        del table[EXTENDS]
    return Layer(where, text, table, False)


def _checked(layers: Sequence[Layer], told: list[str], name: str, registry: Registry | None) -> Recipe:
    """The sections of all layers together, each checked; all mistakes are raised at once."""
    joined = Joined(layers)
    table, found = joined.table, joined.mistakes
    make = _structurer(registry or installed())
    parts: dict[str, Any] = {"name": name}
    known = [*WORDS, *SECTIONS, *SETTINGS]
    for key in table:
        if key not in known:
            hint = did_you_mean(key, known) or f" (known: {', '.join([EXTENDS, *known])})"
            found.append(Mistake((key,), f"unknown key{hint}"))
    for key, wanted in {**dict.fromkeys(WORDS, str), **SETTINGS, **SECTIONS}.items():
        if key in table or (isinstance(wanted, Kind) and wanted.default is not None):
            default = wanted.default if isinstance(wanted, Kind) else None
            parts[key], mistakes = _section(make, table.get(key, default), wanted, key)
            found += mistakes
        elif isinstance(wanted, Kind) and not wanted.optional:
            names = ", ".join((registry or installed()).names(wanted)) or "none"
            found.append(Mistake((key,), f"missing; wanted {wanted.a} (known: {names})"))
    if not found and not told:
        found += _fits(parts["objective"], parts["source"])
    if not found and not told:
        found += curricula.mistakes(Recipe(**parts), registry)
    told += locate(found, layers, joined.called)
    if told:
        raise RecipeError(told)
    return Recipe(**parts)


def _section(make: Structurer, value: Any, wanted: Any, key: str) -> tuple[Any, list[Mistake]]:
    if not (isinstance(wanted, Kind) and wanted.many):
        return make.section(value, wanted, (key,))
    if by_label(value):
        value = new_entries(value)
    if not isinstance(value, list | tuple):
        what = f'found {show(value)}; wanted a list; write {key} = ["..."] or [[{key}]]'
        return None, [Mistake((key,), what)]
    made = [make.section(item, wanted, (key, index)) for index, item in enumerate(value)]
    return tuple(part for part, _ in made), [mistake for _, mistakes in made for mistake in mistakes]


def _fits(objective: Any, source: Any) -> list[Mistake]:
    """Whether the source gives what the objective takes."""
    takes, gives = objective.takes, source.gives
    if isinstance(takes, type) and isinstance(gives, type) and issubclass(gives, takes):
        return []
    given, wanted = (getattr(each, "__name__", show(each)) for each in (gives, takes))
    return [
        Mistake(("source",), f"gives {given}, but the objective takes {wanted}; choose another source or objective")
    ]


@cache
def _structurer(registry: Registry) -> Structurer:
    return Structurer(registry)
