"""A recipe and its curriculum: whether the one can follow the other, and what is in effect at a step."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import attrs

from qi_core.curriculum import Curriculum, Mixed, Outset, Pace, State
from qi_core.errors import QiError, RecipeError
from qi_core.settings import Shift
from qi_registry.joining import value_at
from qi_registry.mistakes import Mistake
from qi_registry.recipe import Recipe, to_table, to_toml
from qi_registry.registry import Registry

if TYPE_CHECKING:
    from qi_core.tracker import Change

SECTION = "curriculum"
LIVE = ("sampler", "optimizer.lr", "preview", "guidance", "objective", "source", "data")
"""What a stage of a curriculum may change."""
FIXED = ("data.engine", "data.workers", "data.portion", "data.cache", "data.patience", "data.broken")
"""But for these, which a run has from its start."""


def is_within(setting: str, keys: Iterable[str]) -> bool:
    """Whether a line of a recipe sets one of these keys, or something below one."""
    key = setting.partition("=")[0].strip()
    return any(key == each or key.startswith(each + ".") for each in keys)


def touches(setting: str, keys: Iterable[str]) -> bool:
    """The same, also where the line's value is a table that holds one: ``data = {portion = 4}``."""
    key = setting.partition("=")[0].strip()
    try:
        value: Any = tomllib.loads(setting)
        for each in key.split("."):
            value = value[each]
    except (tomllib.TOMLDecodeError, LookupError, TypeError):  # text without quotes, or a key in quotes
        value = None
    inner = [f"{key}.{each}" for each in value] if isinstance(value, dict) else []
    return any(is_within(each, keys) for each in (key, *inner))


def weights(recipe: Recipe) -> Mapping[str, float]:
    """Of the named parts of the source; empty where it has none."""
    return recipe.source.weights if isinstance(recipe.source, Mixed) else {}


def unfolded(recipe: Recipe, registry: Registry | None = None) -> Curriculum | None:
    """The recipe's curriculum, if it has one. Raises QiError where it can't be followed."""
    if recipe.curriculum is None:
        return None
    tables: list[dict[str, Any]] = []

    def value(key: str) -> Any:
        if not tables:
            tables.append(to_table(recipe, registry))
        return value_at(tables[0], key)

    shift: Shift | None = getattr(recipe.objective, "shift", None)
    return recipe.curriculum.build(Outset(mixture=weights(recipe), shift=shift, value=value))


def with_lines(recipe: Recipe, lines: Sequence[str], registry: Registry | None = None) -> Recipe:
    """The recipe with lines of its curriculum in effect. Raises RecipeError; the mistakes name the line."""
    from qi_registry.reader import loads

    if not lines:
        return recipe
    plain = attrs.evolve(recipe, curriculum=None)  # it has been checked, and would be once more
    made = loads(to_toml(plain, registry), where="the recipe", sets=lines, sets_as="", registry=registry)
    return attrs.evolve(made, curriculum=recipe.curriculum)


@attrs.frozen(kw_only=True, slots=False)
class Unfolding:
    """What of a recipe is in effect after some steps: as it was written, then line by line what its curriculum and
    people have changed."""

    origin: Recipe
    """As the run began; of what was changed since, what concerns the curriculum."""
    recipe: Recipe
    """In effect."""
    held: tuple[str, ...] = ()
    """The curriculum's lines that are in it."""
    step: int = -1
    """The last whose lines are."""
    registry: Registry | None = None

    @staticmethod
    def of(recipe: Recipe, registry: Registry | None = None) -> Unfolding:
        """Before the first step."""
        return Unfolding(origin=recipe, recipe=recipe, registry=registry)

    @cached_property
    def curriculum(self) -> Curriculum | None:
        """As it stands."""
        return unfolded(self.origin, self.registry)

    def to(self, step: int) -> Unfolding:
        """With everything that the curriculum has up to a step."""
        here = self
        if self.curriculum is not None:
            for move in (*(move for move in self.curriculum.moves() if self.step < move < step), step):
                here = here._at(move)
        return here

    def changed(self, setting: str) -> Unfolding:
        """With a line that was not foreseen. Raises RecipeError."""
        from qi_registry.changes import apply_setting

        recipe = apply_setting(self.recipe, setting, self.registry)
        if not is_within(setting, (SECTION,)):
            return attrs.evolve(self, recipe=recipe)
        origin = attrs.evolve(self.origin, curriculum=recipe.curriculum)  # it may speak of what was changed since
        return attrs.evolve(self, recipe=recipe, origin=origin)._at(max(self.step, 0))

    def resolved(self, setting: str, step: int) -> str:
        """``curriculum = next`` as the line that it comes to at a step; any other line as it is. Raises QiError where
        nothing comes next."""
        key, _, value = (part.strip() for part in setting.partition("="))
        if key != SECTION or value.strip("'\"") != "next":
            return setting
        if self.curriculum is None or self.origin.curriculum is None:
            raise QiError("curriculum: the recipe has none, so nothing comes next")
        state = self.curriculum.at(step)
        span = next(span for span in self.curriculum.spans() if span.stage == state.stage)
        if span.end is None:
            raise QiError(f"curriculum: {span.stage!r} is the last stage; nothing comes next")
        if step == span.begin:
            raise QiError(f"curriculum: {span.stage!r} begins at this very step; ask again after one more")
        return self.origin.curriculum.cut_short(span.stage, step - span.begin)

    def pace(self, patch: int) -> Pace:
        """Which samples a step's batch is made of. ``patch``: pixels of a token's side."""
        recipe = self.recipe
        own = {**weights(recipe), **recipe.data.mixture}
        return Pace(
            samples=recipe.train.batch, patch=patch, curriculum=self.curriculum, over=recipe.data.mixture, own=own
        )

    def _at(self, step: int) -> Unfolding:
        lines = self.curriculum.at(step).settings if self.curriculum else ()
        due = [line for line in lines if line not in self.held]
        return attrs.evolve(self, recipe=with_lines(self.recipe, due, self.registry), held=lines, step=step)


def at_step(recipe: Recipe, changes: Sequence[Change], step: int) -> Unfolding:
    """What is in effect when a run that was changed so goes on at a step: what people changed before it (what they
    changed at it comes up again), and what the curriculum has up to it."""
    here = Unfolding.of(recipe)
    for change in changes:
        if change.step < step:
            here = here.to(change.step).changed(change.setting)
    return here.to(step)


def mistakes(recipe: Recipe, registry: Registry | None = None) -> list[Mistake]:
    """Whether the recipe can follow its curriculum, and knows the parts that weights are given for."""
    found = [
        Mistake(("data", "mixture", name), f"the source has no part of that name{_known(weights(recipe))}")
        for name in recipe.data.mixture
        if name not in weights(recipe)
    ]
    if recipe.curriculum is not None and not found:
        try:
            found += _of_stages(recipe, registry)
        except QiError as error:
            found.append(Mistake((SECTION,), str(error)))
    return found


def _of_stages(recipe: Recipe, registry: Registry | None) -> Iterator[Mistake]:
    here, plan = Unfolding.of(recipe, registry), unfolded(recipe, registry)
    assert plan is not None
    known = set[str]()  # a stage may begin with what is wrong in the one before
    for number, span in enumerate(plan.spans()):
        where = (SECTION, "stages", number)
        last = span.begin + span.transition if span.end is None else min(span.begin + span.transition, span.end - 1)
        for step in sorted({span.begin, last}):
            state = plan.at(step)
            for line in state.settings:
                if not is_within(line, LIVE) or touches(line, FIXED):
                    told = f"what can: {', '.join(LIVE)}, but for {', '.join(FIXED)}"
                    yield Mistake(where, f"{line}: can't be changed while a run goes on ({told})")
                    return
            try:
                here = here.to(step)
            except RecipeError as error:
                yield from (Mistake(where, mistake) for mistake in error.mistakes)
                return
            for key, what in _unfit(here.recipe, state):
                if key not in known:
                    yield Mistake(where, f"{key}: {what}")
                known.add(key)


def _unfit(recipe: Recipe, state: State) -> Iterator[tuple[str, str]]:
    known = weights(recipe)
    for name in state.mixture:
        if name not in known:
            yield f"mixture.{name}", f"the source has no part of that name{_known(known)}"
    if state.shift is not None and not hasattr(recipe.objective, "shift"):
        yield "shift", f"{type(recipe.objective).__name__} has no times to shift; leave it out"


def _known(names: Iterable[str]) -> str:
    told = ", ".join(names)
    return f" (known: {told})" if told else ", or none that can be weighed; wanted a source 'mixture'"
