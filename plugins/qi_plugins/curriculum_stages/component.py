"""The settings of ``stages``: one stage after another."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from attrs import Attribute, field, frozen, validators

from qi_core.settings import Shift, above_zero

if TYPE_CHECKING:
    from qi_core.curriculum import Curriculum, Outset


def _weights(_: object, attribute: Attribute[Any], value: Mapping[str, float]) -> None:
    for name, weight in value.items():
        if not 0 <= weight < math.inf:
            raise ValueError(f"'{attribute.name}.{name}' is {weight:g}; wanted a weight of 0 or more")
    if value and not any(value.values()):
        raise ValueError(f"'{attribute.name}' sums to nothing; give some part a weight above 0")


def _shift(instance: object, attribute: Attribute[Any], value: Shift | None) -> None:
    if value is not None:
        above_zero(instance, attribute, value)


def _lines(_: object, attribute: Attribute[Any], value: tuple[str, ...]) -> None:
    for line in value:
        if "=" not in line or "\n" in line:
            raise ValueError(f"'{attribute.name}' holds {line!r}; wanted a line of the recipe, such as source.side=640")


def _stages(_: object, __: Attribute[Any], value: tuple[Stage, ...]) -> None:
    if not value:
        raise ValueError("no stages; give at least one [[curriculum.stages]]")
    for number, stage in enumerate(value[:-1]):
        if stage.steps == 0:
            raise ValueError(f"stages[{number}].steps is 0, which means to the end; only the last stage may say so")
    labels = [stage.name or str(number) for number, stage in enumerate(value)]
    if twins := {label for label in labels if labels.count(label) > 1}:
        raise ValueError(f"two stages are called {min(twins)!r}; give each a name of its own")


@frozen(kw_only=True)
class Stage:
    """One stage. What it doesn't say stays as it was in the stage before; in the first, as the recipe has it."""

    name: str = ""
    """Its number if empty."""
    steps: int = field(default=0, validator=validators.ge(0))
    """How long it lasts. The last stage goes on as long as the run does; it may say 0."""
    transition: int = field(default=0, validator=validators.ge(0))
    """Steps at its beginning over which mixture, learning rate, shift and the thresholds of filters move linearly from
    what they were; 0: at once. Everything else changes at once."""
    mixture: Mapping[str, float] = field(factory=dict, validator=_weights)
    """Weights of the named parts of the source; parts that are not named give nothing."""
    tokens: int | None = field(default=None, validator=validators.optional(validators.ge(0)))
    """Image tokens a batch, so that steps cost the same at every resolution: the first samples that together have so
    many; 0: train.batch samples."""
    lr: float | None = field(default=None, validator=validators.optional(validators.ge(0)))
    """Factor on the optimizer's learning rate."""
    shift: Shift | None = field(default=None, validator=_shift)
    """Of the objective's times: a factor on the odds of noise; "none" is 1; "qwen-image" comes at once."""
    set: tuple[str, ...] = field(default=(), validator=_lines)
    """Lines of the recipe that hold from here on: resolutions, thresholds, new parts, and whatever else ``qi set`` may
    change while a run goes on."""


@frozen(kw_only=True)
class Stages:
    """One stage after another: mixture, resolution, filters, batch, learning rate and timesteps by step.

    The progressive strategies of the report (section 4) as settings: resolution, text, quality, balance, and from real
    to real and synthetic data.
    """

    stages: tuple[Stage, ...] = field(validator=_stages)
    """In their order."""

    @property
    def labels(self) -> tuple[str, ...]:
        """What each stage is called."""
        return tuple(stage.name or str(number) for number, stage in enumerate(self.stages))

    def build(self, outset: Outset) -> Curriculum:
        from qi_plugins.curriculum_stages.unfolded import Unfolded

        return Unfolded(self, outset)

    def cut_short(self, stage: str, steps: int) -> str:
        return f"curriculum.stages.{json.dumps(stage, ensure_ascii=False)}.steps = {steps}"
