"""What a live run is asked to change, and what its curriculum has for a step: checked, then put into effect."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qi_core.errors import QiError
from qi_core.place import Place
from qi_registry.curricula import Unfolding
from qi_registry.recipe import Recipe
from qi_registry.runs import FIXED, LIVE, is_live

if TYPE_CHECKING:
    from qi_core.run import Effect, Run
    from qi_core.source import Source


class Changer:
    """Checks a setting of a live run as a recipe is checked; what it returns puts it into effect."""

    def __init__(self, here: Unfolding, place: Place) -> None:
        """``here``: what is in effect. ``place``: where a source is built anew when the data changes."""
        self._here, self._place = here, place

    def __call__(self, run: Run, setting: str) -> Effect:
        refuse_if_fixed(setting)
        return self._effect(run, self._here.changed(setting), tried=True)

    def scheduled(self, run: Run) -> Effect:
        """What the curriculum has for the run's step."""
        return self._effect(run, self._here.to(run.step))

    def resolved(self, setting: str, step: int) -> str:
        """See ``Run.resolve``."""
        return self._here.resolved(setting, step)

    def rehearse(self) -> None:
        """The source as each stage to come has it is built once, so that one that has no data shows now. Raises
        QiError that names the stage."""
        from qi_core.place import Closing
        from qi_core.source import Planned
        from qi_registry import specs

        here, seen = self._here, {specs.digest(self._here.recipe)}
        for span in here.curriculum.spans() if here.curriculum else ():
            if span.begin <= here.step:
                continue
            here = here.to(span.begin)
            if (told := specs.digest(here.recipe)) in seen:
                continue
            seen.add(told)
            try:
                source = specs.source(here.recipe, self._place)
                if isinstance(source, Closing):
                    source.close()
                if not isinstance(source, Planned):
                    _refuse_other_data(self._here.recipe, here.recipe)
                _refuse_other_shadows(self._here.recipe, here.recipe)
            except QiError as error:
                raise QiError(
                    f"curriculum: stage {span.stage!r}, which begins at step {span.begin}: {error}"
                ) from error

    def _effect(self, run: Run, here: Unfolding, tried: bool = False) -> Effect:
        """``tried``: a sample is made first, since a change that leaves nothing to train on would end the run."""
        from qi_core.chores import refuse_preview
        from qi_core.place import Closing
        from qi_core.run import Effect
        from qi_registry import specs

        before, recipe = self._here, here.recipe
        refuse_preview(recipe.preview, run.encoders)
        _refuse_other_shadows(before.recipe, recipe)
        changed = specs.digest(recipe) != specs.digest(before.recipe) or here.origin != before.origin
        if run.spec is None:  # its source draws, and keeps pictures that it has drawn
            _refuse_other_data(before.recipe, recipe)
        source = self._source(run, recipe, tried) if changed and run.spec is not None else None

        def drop() -> None:
            if isinstance(source, Closing):
                source.close()

        def take_effect() -> None:
            self._here = here
            run.sampler = recipe.sampler
            run.preview = recipe.preview
            run.guidance = recipe.guidance
            run.data = recipe.data
            run.pace = here.pace(self._place.multiple)
            lr = getattr(recipe.optimizer, "lr", None)
            if lr is not None:
                run.optimizer.lr = run.peak = lr
            if changed:
                run.objective = recipe.objective
            if source is not None:
                if run.position:
                    source.load_state_dict(run.position)
                run.renew(source, specs.spec(recipe, source, run.encoders, run.strategy))

        return Effect(apply=take_effect, data=changed, drop=drop)

    def _source(self, run: Run, recipe: Recipe, tried: bool) -> Source[Any]:
        """Built, and known to go on from where the data stands. Raises QiError where it can't."""
        from qi_core.drawing import made
        from qi_core.place import Closing
        from qi_core.source import Planned
        from qi_registry import specs

        source = specs.source(recipe, self._place)
        try:
            if not isinstance(source, Planned):
                raise QiError(
                    f"source: {type(recipe.source).__name__} draws its samples itself, and this run's source is one "
                    "that plans; begin another run from this one with init"
                )
            if run.position:
                source.load_state_dict(run.position)
            if tried:
                state = source.state_dict()
                made(source, source.plan(1)[0])
                source.load_state_dict(state)
        except (QiError, LookupError, TypeError) as error:
            if isinstance(source, Closing):
                source.close()
            if isinstance(error, QiError):
                raise
            raise QiError(
                f"source: {type(recipe.source).__name__} can't go on from where the data stands, which another kind of "
                "source has kept; add it as a part of a mixture, or begin another run from this one with init"
            ) from error
        return source


def refuse_if_fixed(setting: str) -> None:
    """Raises QiError if the setting is none of those that a live run can take."""
    if not is_live(setting):
        key = setting.partition("=")[0].strip()
        raise QiError(
            f"{key}: can't be changed while a run goes on (what can: {', '.join(LIVE)}, but for "
            f"{', '.join(FIXED)}); stop the run and resume it with --set"
        )


def _refuse_other_shadows(before: Recipe, after: Recipe) -> None:
    """Raises QiError for an objective that needs other copies of the weights than the run keeps."""
    from qi_core.shadow import Shadowed

    old, new = (each.shadows() if isinstance(each, Shadowed) else {} for each in (before.objective, after.objective))
    if dict(old) != dict(new):
        raise QiError(
            f"objective: {type(after.objective).__name__} needs other copies of the weights "
            f"({', '.join(new) or 'none'}) than this run keeps; begin another run from this one with init"
        )


def _refuse_other_data(before: Recipe, after: Recipe) -> None:
    """Raises QiError if the data would change."""
    old, new = ((each.source, each.data.mixture, each.data.filters) for each in (before, after))
    if old != new:
        raise QiError(
            f"source: {type(before.source).__name__} draws its samples itself, so it can't be changed while a run goes "
            "on; stop the run and resume it with --set"
        )
