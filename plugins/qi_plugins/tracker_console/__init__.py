"""The tracker "console": a progress line on a terminal, plain lines elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qi_core.hooks import hookimpl

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qi_core import TrackerComponent


@hookimpl
def qi_trackers() -> Mapping[str, type[TrackerComponent]]:
    from qi_plugins.tracker_console.component import Console

    return {"console": Console}
