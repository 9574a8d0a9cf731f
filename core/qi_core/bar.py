"""The usual filter: a measurement, and the range that is wanted."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from attrs import Attribute, frozen

if TYPE_CHECKING:
    from qi_core.data import Sample

NOTHING = math.nan
"""What a measurement gives where nothing can be said of a sample."""


@frozen(kw_only=True, eq=False)
class Bar:
    """A live filter."""

    measuring: Callable[[Sample], float]
    """See ``Filter.measure``."""
    least: float = -math.inf
    most: float = math.inf
    below: str = "too low"
    """Why a sample below ``least`` is not wanted."""
    above: str = "too high"

    def measure(self, sample: Sample) -> float:
        """See ``Filter.measure``."""
        return self.measuring(sample)

    def refuses(self, value: float) -> str:
        """See ``Filter.refuses``. NaN is neither below nor above."""
        if value < self.least:
            return self.below
        return self.above if value > self.most else ""


def or_none(most: float, none: float = 0.0) -> float:
    """An upper limit of which ``none`` says that there is none."""
    return math.inf if most == none else most


def above_none(least: float) -> float:
    """A lower limit of which 0 says that there is none."""
    return least or -math.inf


def in_order(instance: Any, attribute: Attribute[Any], value: float) -> None:
    """Validator of a field ``most`` beside a field ``least``; where 0 says that there is no limit, too."""
    none = attribute.default == 0 and value == 0
    if not none and not value >= instance.least:
        raise ValueError(f"'{attribute.name}' is {value:g} and 'least' {instance.least:g}; wanted least <= most")
