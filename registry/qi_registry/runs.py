"""The folder of a run: which recipe it was made with, whether it can go on, what was changed since."""

from __future__ import annotations

from pathlib import Path

from qi_core.errors import QiError
from qi_core.files import write_whole
from qi_registry.changes import apply_setting
from qi_registry.reader import read
from qi_registry.recipe import Recipe, to_toml

ARCHITECTURE = ("autoencoder", "conditioner", "denoiser")
"""Sections that decide which tensors a checkpoint holds and what they mean."""


def recipe_path(folder: Path) -> Path:
    """Where a run keeps its resolved recipe."""
    return folder / "recipe.toml"


def is_run(path: str | Path) -> bool:
    """Whether this is the folder of a run."""
    return recipe_path(Path(path)).is_file()


def read_run(folder: Path, sets: tuple[str, ...] = ()) -> Recipe:
    """The recipe of a run, as it was at its start. Raises QiError if there is no run."""
    if not is_run(folder):
        raise QiError(f"{folder}: no run there (no recipe.toml in it); name the folder that 'qi run' printed")
    return read(str(recipe_path(folder)), sets)


def read_run_now(folder: Path, sets: tuple[str, ...] = ()) -> Recipe:
    """The recipe of a run with every live change in effect, then ``sets``."""
    from qi_core.live import Ledger

    recipe = read_run(folder)
    for setting in (*(change.setting for change in Ledger(folder).read()), *sets):
        recipe = apply_setting(recipe, setting)
    return recipe


def enter(recipe: Recipe, folder: Path) -> tuple[str, ...]:
    """Keep the recipe in the folder, or find that it may go on there. What changed since, told.

    Raises QiError if the folder holds something else, or a run of another architecture.
    """
    if not is_run(folder):
        if any(entry.name != "lock" for entry in folder.iterdir()):
            raise QiError(f"{folder}: not empty and no run; choose another folder with --folder")
        write_whole(recipe_path(folder), to_toml(recipe).encode())
        return ()
    before = read_run(folder)
    differing = different_lines(to_toml(before), to_toml(recipe))
    if not differing:
        return ()
    for section in ARCHITECTURE:
        if getattr(before, section) != getattr(recipe, section):
            raise QiError(
                f"{folder}: made with another {section} ({'; '.join(differing)}); "
                "its checkpoints don't fit; choose another --folder, or start again with --fresh"
            )
    write_whole(recipe_path(folder), to_toml(recipe).encode())
    return tuple(f"changed since the run began: {line}" for line in differing)


def set_aside(folder: Path) -> Path | None:
    """Rename a run's folder, so that a fresh one can begin; nothing is deleted."""
    if not folder.exists():
        return None
    number = 1
    while (aside := folder.with_name(f"{folder.name}.{number}")).exists():
        number += 1
    folder.rename(aside)
    return aside


def different_lines(before: str, after: str) -> list[str]:
    """``key: old -> new`` for each line that differs between two resolved recipes."""
    old, new = _by_key(before), _by_key(after)
    return [
        f"{key}: {old.get(key, 'not set')} -> {new.get(key, 'not set')}"
        for key in dict.fromkeys([*old, *new])
        if old.get(key) != new.get(key)
    ]


def _by_key(text: str) -> dict[str, str]:
    import tomllib

    flat: dict[str, str] = {}

    def walk(prefix: str, value: object) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(f"{prefix}.{key}" if prefix else key, inner)
        else:
            flat[prefix] = repr(value)

    walk("", tomllib.loads(text))
    return flat
