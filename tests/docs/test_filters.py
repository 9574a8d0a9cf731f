"""The page about filters names every filter that comes with qi, and no other."""

from __future__ import annotations

import re
from importlib.metadata import distribution
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "filters.md"


def test_the_table_has_every_filter() -> None:
    plugins = [point.load() for point in distribution("qi").entry_points.select(group="qi")]
    offered = {name for plugin in plugins if hasattr(plugin, "qi_filters") for name in plugin.qi_filters()}
    rows = re.findall(r"^\| `([\w-]+)` \|", PAGE.read_text(encoding="utf-8"), re.M)
    assert sorted(rows) == sorted(offered)
