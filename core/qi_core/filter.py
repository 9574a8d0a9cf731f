"""Filters: what a sample must have to be trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from qi_core.data import Sample
    from qi_core.place import Place


class Filter(Protocol):
    """One measurement and its bar. Both depend on the sample and the settings alone, so that who is kept is the same
    in every run and in every process."""

    def measure(self, sample: Sample) -> float:
        """The value that the bar is laid on, in the unit that the component's documentation gives; NaN where nothing
        can be said of the sample, which is then kept. Several threads may ask at once."""
        ...

    def refuses(self, value: float) -> str:
        """Why a sample of this value is not wanted, in a few words that are the same for all such samples (they are
        counted by them); empty if it is."""
        ...


class FilterComponent(Protocol):
    """The settings of a filter: named thresholds."""

    def build(self, place: Place) -> Filter:
        """Raises QiError where weights or libraries that it needs are not there."""
        ...
