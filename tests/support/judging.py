"""Greys, judged by their luma, in this process or another."""

from __future__ import annotations

from pathlib import Path

from qi_core.bar import Bar
from qi_core.filtering import Filtered
from qi_core.keeping import Keeper
from support.planned import Deal, greys

FILTERS = {
    "luma": Bar(measuring=lambda sample: float(sample.image.float().mean()) / 255, least=0.5, below="too dark"),
}


def judge(folder: Path, count: int = 100, backward: bool = False) -> dict[str, int]:
    """Every one of so many pictures, once; what the keeper reports."""
    samples = greys(count)
    keeper = Keeper(folder, FILTERS)
    source = Filtered(Deal(samples[::-1] if backward else samples), FILTERS, keeper)
    source.draw(count)
    source.close()
    return keeper.report()
