"""The scores of a run's first evaluation, kept in its folder: a resumed run is compared with the same ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import frozen

from qi_core import QiError
from qi_core.files import write_whole


@frozen(kw_only=True)
class Baseline:
    """One file of scores."""

    path: Path
    own: bool
    """Whether this run writes it; else it is another run's and there already."""
    asked: Mapping[str, Any]
    """What was painted and how it was judged, as JSON values."""

    def compared(self, step: int, totals: tuple[float | None, ...]) -> tuple[float | None, ...] | None:
        """The scores to compare with; None if these are the first ones themselves, which are then kept."""
        self.refuse_others()
        kept = self._read()
        if kept is not None and (not self.own or step > kept["step"]):
            return tuple(kept["totals"])
        self.path.parent.mkdir(exist_ok=True)
        write_whole(self.path, json.dumps({"step": step, "totals": totals, **self.asked}).encode())
        return None

    def refuse_others(self) -> None:
        """Raises QiError if the file is of other prompts or rewards, or is another run's and not there."""
        kept = self._read()
        if kept is None:
            if not self.own:
                raise QiError(
                    f"{self.path}: not there; wanted the first scores of another run's evaluation 'reward'; "
                    "leave out 'against', or name a run that has them"
                )
            return
        for what, value in self.asked.items():
            if kept.get(what) != value:
                advice = "give the evaluation another title" if self.own else "name another run or leave out 'against'"
                raise QiError(f"{self.path}: first scores of other {what}; wanted the same as in the recipe; {advice}")

    def _read(self) -> dict[str, Any] | None:
        try:
            kept = json.loads(self.path.read_text(encoding="utf-8"))
            if not (isinstance(kept["step"], int) and len(kept["totals"]) == len(kept["prompts"])):
                raise ValueError(f"{len(kept['totals'])} scores")
            return dict(kept)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, LookupError) as error:
            raise QiError(f"{self.path}: no first scores of an evaluation ({error}); remove it") from error
