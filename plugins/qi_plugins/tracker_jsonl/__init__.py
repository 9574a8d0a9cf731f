"""The tracker "jsonl": every event of a run as one line of JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qi_core.hooks import hookimpl

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qi_core import TrackerComponent


@hookimpl
def qi_trackers() -> Mapping[str, type[TrackerComponent]]:
    from qi_plugins.tracker_jsonl.component import JsonLines

    return {"jsonl": JsonLines}
