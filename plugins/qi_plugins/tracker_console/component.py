"""Settings of the tracker "console"."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import field, frozen, validators

if TYPE_CHECKING:
    from qi_core import Place, Tracker


@frozen(kw_only=True)
class Console:
    """What the user sees of a run."""

    every_seconds: float = field(default=10.0, validator=validators.ge(0))
    """Where the output is no terminal: seconds between two lines of progress; 0: a line a step."""

    def build(self, place: Place) -> Tracker:
        from rich.console import Console as Screen

        from qi_plugins.tracker_console.console import LiveConsole

        return LiveConsole(Screen(highlight=False), self.every_seconds)
