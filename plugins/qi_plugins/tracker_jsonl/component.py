"""Settings of the tracker "jsonl"."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import frozen

if TYPE_CHECKING:
    from qi_core import Place, Tracker


@frozen(kw_only=True)
class JsonLines:
    """Every event as a line of ``log.jsonl`` in the run's folder; see ``qi_plugins.tracker_jsonl.log``."""

    def build(self, place: Place) -> Tracker:
        from qi_plugins.tracker_jsonl.log import LiveJsonLines

        return LiveJsonLines(place.folder / "log.jsonl")
