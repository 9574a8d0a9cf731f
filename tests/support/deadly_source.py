"""A plugin with a source of twelve plain pictures, one of which kills the process that makes it."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any, ClassVar

import torch
from attrs import frozen

from qi_core import Place, Sample, Samples, Ticket, hookimpl
from qi_core.pixels import Unusable
from qi_core.plane.process import KILLS
from support.numbered import Numbered

COUNT, DEADLY = 12, 3


class Pictures(Numbered):
    """Over and over again. In the place of one that can't be used comes the fourth after it."""

    def __init__(self, harmless: bool) -> None:
        super().__init__()
        self._harmless = harmless

    def called(self, ticket: Ticket) -> str:
        return f"{ticket[0] % COUNT}"

    def other(self, ticket: Ticket, attempt: int) -> Ticket:
        return (ticket[0] + 4 * attempt,)

    def sample(self, n: int) -> Sample:
        number = n % COUNT
        if number == DEADLY and self._harmless:
            raise Unusable(KILLS)
        if number == DEADLY:
            os.kill(os.getpid(), signal.SIGKILL)
        image = torch.full((3, 16, 32), 20 * number, dtype=torch.uint8)
        return Sample(key=f"{number}", prompt=f"picture {number}", image=image)


@frozen(kw_only=True)
class Deadly:
    """Its settings."""

    gives: ClassVar[type] = Samples
    harmless: bool = False
    """It can't be used, and nothing is killed."""

    def build(self, place: Place, multiple: int) -> Any:
        return Pictures(self.harmless)


@hookimpl
def qi_sources() -> dict[str, type[Any]]:
    return {"deadly": Deadly}


def install(folder: Path) -> Path:
    """For processes that have the folder on their path."""
    info = folder / "deadly-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: deadly\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[qi]\ndeadly = support.deadly_source\n")
    return folder
