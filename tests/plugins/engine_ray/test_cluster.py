"""What the engine "ray" refuses before it looks for a Ray; tests/runs/test_engines.py trains with one."""

from __future__ import annotations

from pathlib import Path

import pytest

from qi_core import QiError
from qi_core.engine import Workshop
from qi_plugins.engine_ray.component import RayEngine


def test_several_ranks_need_a_ray_that_all_of_them_can_join(tmp_path: Path) -> None:
    shop = Workshop(folder=tmp_path, rank=1, ranks=2, workers=1, command=(), pinned=False, tell=lambda line: None)
    with pytest.raises(QiError, match=r'data.engine.address is empty, and the run has 2 ranks.*address = "auto"'):
        RayEngine().build(shop)
