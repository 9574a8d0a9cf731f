"""The folder of a run: which recipe it was made with, whether it can go on, what was changed since."""

from __future__ import annotations

import json
from pathlib import Path

from qi_core.errors import QiError
from qi_core.files import write_whole
from qi_registry import curricula
from qi_registry.changes import apply_setting
from qi_registry.kinds import NAME
from qi_registry.reader import read
from qi_registry.recipe import Recipe, to_table, to_toml

LIVE = (*curricula.LIVE, curricula.SECTION)
"""What may be changed while a run goes on."""
FIXED = curricula.FIXED
"""But for these."""

WHOLE = ("source", "data", "objective", curricula.SECTION)
"""Sections that are changed at once where a recipe was edited."""


def recipe_path(folder: Path) -> Path:
    """Where a run keeps its resolved recipe."""
    return folder / "recipe.toml"


def is_run(path: str | Path) -> bool:
    """Whether this is the folder of a run."""
    return recipe_path(Path(path)).is_file()


def is_kept_recipe(path: Path) -> bool:
    """Whether this is the recipe.toml that a run keeps in its folder."""
    beside = (path.parent / "checkpoints", path.parent / "lock")
    return path == recipe_path(path.parent) and path.is_file() and any(each.exists() for each in beside)


def read_run(folder: Path, sets: tuple[str, ...] = ()) -> Recipe:
    """The recipe of a run, as it was at its start. Raises QiError if there is no run."""
    if not is_run(folder):
        raise QiError(f"{folder}: no run there (no recipe.toml in it); name the folder that 'qi run' printed")
    return read(str(recipe_path(folder)), sets)


def read_run_now(folder: Path, sets: tuple[str, ...] = ()) -> Recipe:
    """The recipe of a run with every live change in effect, and what its curriculum has had until the last of them,
    then ``sets``."""
    from qi_core.live import Ledger

    changes = Ledger(folder).read()
    last = changes[-1].step + 1 if changes else 0
    recipe = curricula.at_step(read_run(folder), changes, last).recipe
    for setting in sets:
        recipe = apply_setting(recipe, setting)
    return recipe


def is_live(setting: str) -> bool:
    """Whether a live run can take a setting (``sampler.steps=8``)."""
    return curricula.is_within(setting, LIVE) and not curricula.touches(setting, FIXED)


def keep(recipe: Recipe, folder: Path) -> None:
    """This is the folder's recipe from now on."""
    write_whole(recipe_path(folder), to_toml(recipe).encode())


def refuse_foreign(folder: Path) -> None:
    """Raises QiError if the folder holds something that is no run's, or a checkpoint without its recipe."""
    for entry in folder.iterdir():
        empty = entry.name == "checkpoints" and not any(entry.glob("step-*"))
        if not empty and entry.name not in ("lock", "control"):
            raise QiError(f"{folder}: not empty and no run; choose another folder")


def changes_at_resume(before: Recipe, recipe: Recipe, sets: tuple[str, ...], folder: Path) -> list[str]:
    """Settings that bring into effect what ``sets`` and the recipe (where it isn't as ``before``) ask for.

    Without them the changes that were made while the run went on would be replayed over what was asked for last.
    """
    now, found = read_run_now(folder), []
    for setting in filter(is_live, (*sets, *_edited(before, recipe))):
        after = apply_setting(now, setting)
        if after != now:
            found.append(setting)
        now = after
    return found


def _edited(before: Recipe, after: Recipe) -> list[str]:
    """Lines that make the one of the other: key by key; of the data and what it is for, a section at once: its keys
    may depend on each other."""
    found: list[str] = []
    tables = to_table(before), to_table(after)
    for section in WHOLE:
        old, new = (table.get(section, {}) for table in tables)
        same = old.get(NAME) == new.get(NAME)
        live = {key: value for key, value in new.items() if f"{section}.{key}" not in FIXED}
        changed = {key: value for key, value in live.items() if key == NAME or not same or old.get(key) != value}
        if changed.keys() - {NAME} or not same:
            found.append(f"{section} = {inline(changed)}")
    old, new = by_key(to_toml(before)), by_key(to_toml(after))
    changed = {key: value for key, value in new.items() if old.get(key) != value}
    return found + [f"{key} = {inline(value)}" for key, value in changed.items() if key.split(".")[0] not in WHOLE]


def inline(value: object) -> str:
    """A value as a line of TOML has it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {inline(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(inline, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def set_aside(folder: Path) -> Path:
    """Rename a run's folder, so that a fresh one can begin; nothing is deleted."""
    number = 1
    while (aside := folder.with_name(f"{folder.name}.{number}")).exists():
        number += 1
    folder.rename(aside)
    return aside


def different_lines(before: str, after: str) -> list[str]:
    """``key: old -> new`` for each line that differs between two resolved recipes."""
    old, new = by_key(before), by_key(after)
    return [
        f"{key}: {shown(old, key)} -> {shown(new, key)}"
        for key in dict.fromkeys([*old, *new])
        if old.get(key) != new.get(key)
    ]


def shown(flat: dict[str, object], key: str) -> str:
    """A key's value in a message."""
    return repr(flat[key]) if key in flat else "not set"


def by_key(text: str) -> dict[str, object]:
    """A resolved recipe's values by dotted key."""
    import tomllib

    flat: dict[str, object] = {}

    def walk(prefix: str, value: object) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(f"{prefix}.{key}" if prefix else key, inner)
        else:
            flat[prefix] = value

    walk("", tomllib.loads(text))
    return flat
