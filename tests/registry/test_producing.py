"""What a worker process of a producer has loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qi_core.portions import Order
from qi_registry import assemble, specs
from qi_registry.producing import Bench
from qi_registry.reader import loads
from qi_registry.recipe import to_toml
from support.small_run import RECIPE


def test_specs_share_their_encoders_which_go_with_the_last_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A threshold that moves is a new spec, and a conditioner may have billions of weights."""
    built = list[Any]()

    def noted(*given: Any) -> Any:
        built.append(known(*given))
        return built[-1]

    known = assemble.encoders_of
    monkeypatch.setattr(assemble, "encoders_of", noted)
    cache = f"[data.cache]\npath = {str(tmp_path / 'cache')!r}\n"
    bench = Bench(tmp_path, "")

    def work(*sets: str) -> Any:
        recipe = loads(RECIPE + cache, where="a recipe", sets=sets)
        made = bench(to_toml(recipe).encode())
        order = Order(spec=specs.digest(recipe), step=0, number=0, tickets=((0,), (1,)), slots=(0, 1))
        assert len(made(order).batch) == 2
        return made

    works = [work(f"data.filters.clarity.least={least}") for least in (0.0, 0.001, 0.002)]
    assert len(built) == 1
    works[0].close()
    works.append(work("autoencoder.patch=16"))
    assert len(built) == 2
    for each in works[1:]:
        each.close()
    assert not list((tmp_path / "cache").glob("*.safetensors"))
    bench.close()
    assert list((tmp_path / "cache").glob("*.safetensors")), "what was encoded is put away at the end"
