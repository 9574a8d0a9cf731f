"""A recipe: the parts of a run by name, with their settings. What TOML becomes, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os.path import expanduser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from qi_core.errors import QiError
from qi_core.settings import Data, Guidance, Preview, Train
from qi_registry.kinds import KINDS, NAME, Kind, kinds_in
from qi_registry.registry import Registry, installed

if TYPE_CHECKING:
    from qi_core.adapter import AdapterComponent
    from qi_core.curriculum import CurriculumComponent
    from qi_core.denoiser import DenoiserComponent
    from qi_core.encoder import Autoencoder, Conditioner
    from qi_core.evaluation import EvaluationComponent
    from qi_core.objective import Objective
    from qi_core.optimizer import OptimizerComponent
    from qi_core.parallel import ParallelComponent
    from qi_core.place import Component
    from qi_core.sampler import Sampler
    from qi_core.source import SourceComponent
    from qi_core.store import StoreComponent
    from qi_core.tracker import TrackerComponent

SETTINGS: dict[str, type[Any]] = {"train": Train, "data": Data, "guidance": Guidance, "preview": Preview}
"""The sections that are no components."""
WORDS = {
    "name": "What the run is called; the file's name if it isn't said.",
    "folder": "Where the run is kept; runs/<name> if it isn't said.",
    "init": "A run's folder whose weights to start from; none: start from chance.",
}
"""The keys at the head of a recipe, each text."""


def _at_home(path: str) -> str:
    """``~`` is the user's folder."""
    return expanduser(path)


@attrs.frozen(kw_only=True)
class Recipe:
    """Everything that decides a run, checked; nothing heavy is built yet."""

    name: str
    folder: str = attrs.field(default="", converter=_at_home)
    init: str = attrs.field(default="", converter=_at_home)
    autoencoder: Component[Autoencoder]
    conditioner: Component[Conditioner]
    denoiser: DenoiserComponent
    adapter: AdapterComponent | None = None
    objective: Objective[Any]
    source: SourceComponent[Any]
    curriculum: CurriculumComponent | None = None
    sampler: Sampler
    optimizer: OptimizerComponent
    parallel: ParallelComponent
    store: StoreComponent
    tracker: tuple[TrackerComponent, ...] = ()
    evaluation: tuple[EvaluationComponent, ...] = ()
    train: Train = attrs.field(factory=Train)
    data: Data = attrs.field(factory=Data)
    guidance: Guidance = attrs.field(factory=Guidance)
    preview: Preview = attrs.field(factory=Preview)

    @property
    def path(self) -> Path:
        """The run's folder."""
        return Path(self.folder) if self.folder else Path("runs") / self.name


def to_table(recipe: Recipe, registry: Registry | None = None) -> dict[str, Any]:
    """The recipe as TOML's tables, every default filled in. Raises QiError for a component that no plugin offers."""
    names = registry or installed()
    table: dict[str, Any] = {}
    for field in attrs.fields(Recipe):
        value = getattr(recipe, field.name)
        if value is None:
            continue
        kind = KINDS.get(field.name)
        table[field.name] = plain(value, (kind,) if kind else (), names)
    return table


def to_toml(recipe: Recipe, registry: Registry | None = None) -> str:
    """The resolved recipe: reading this text gives an equal recipe, whatever the defaults become later."""
    import tomli_w

    return tomli_w.dumps(to_table(recipe, registry))


def plain(value: Any, kinds: Sequence[Kind], names: Registry) -> Any:
    """A value of a recipe as TOML (and JSON) has it: paths are text, tuples lists, records tables.

    ``kinds``: what a component may be where it stands; none where a record is no component.
    """
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple | list):
        return [plain(item, kinds, names) for item in value]
    if isinstance(value, Mapping):
        return {key: plain(item, kinds, names) for key, item in value.items()}
    if not attrs.has(type(value)):
        return value
    return {NAME: names.name_of(value, kinds[0]), **_fields(value, names)} if kinds else _fields(value, names)


def _fields(record: Any, names: Registry) -> dict[str, Any]:
    """A record's keys. TOML has no null: a key that is None is left out, which must be what leaving it out means."""
    table: dict[str, Any] = {}
    for field in attrs.fields(attrs.resolve_types(type(record))):
        value = getattr(record, field.name)
        if value is not None and field.init:
            table[field.name] = plain(value, kinds_in(field.type), names)
        elif field.init and field.default is not None:
            raise QiError(f"{type(record).__name__}.{field.name} is None, which TOML cannot say; give it a value")
    return table
