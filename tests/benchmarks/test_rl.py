"""The two sides of benchmarks/rl.py do the same work: pictures from the same noise, and the gradient."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from attrs import evolve

PIXELS = 16
"""2 x 2 tokens."""
CAPTIONS = (3, 5, 8, 14)
BETA = 100.0
"""Weight of the KL where it is to be seen beside the policy's gradient."""


@pytest.fixture(scope="module")
def rl() -> Iterator[ModuleType]:
    """benchmarks/ is no package: its files are scripts, and find each other in their folder."""
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
        yield importlib.import_module("rl")
    torch.set_num_threads(threads)


@pytest.mark.parametrize(("guided", "way"), [(True, "one batch"), (True, "two passes"), (False, "one batch")])
def test_both_sides_draw_the_same_pictures_and_find_the_same_gradient(rl: ModuleType, guided: bool, way: str) -> None:
    load = rl.Workload(name="tiny", captions=CAPTIONS, guided=guided)
    with rl.sides(load, PIXELS, threads=1, layers=1) as (run, others):
        found = rl.agreement(run, others[way])
    assert found.pictures < 1e-4
    assert found.log_probs < 1e-5
    assert found.rewards < 0.05
    assert found.advantages < 1e-5
    assert found.losses[0] == pytest.approx(found.losses[1], abs=1e-5)
    assert found.gradient < 1e-3


@pytest.mark.parametrize(("wrong", "same"), [({}, True), ({"beta": 0.0}, False), ({"clip": 1.0}, False)])
def test_so_they_do_where_ratios_are_clipped_and_the_reference_is_elsewhere(
    rl: ModuleType, wrong: dict[str, float], same: bool
) -> None:
    load = rl.Workload(name="tiny", captions=CAPTIONS)
    with rl.sides(load, PIXELS, threads=1, layers=1) as (run, others):
        run.objective = evolve(run.objective, beta=BETA)
        settings = evolve(others["one batch"].settings, **({"beta": BETA} | wrong))
        found = rl.agreement(run, evolve(others["one batch"], settings=settings), nudge=1e-2)
    assert (found.gradient < 1e-3) == same, found


def test_each_side_is_timed_in_its_two_parts(rl: ModuleType) -> None:
    result = rl.measure(rl.Workload(name="tiny", captions=CAPTIONS, guided=False), PIXELS, rounds=1, threads=1)
    assert list(result.parts) == ["qi", "one batch"]
    for part in result.parts.values():
        assert 0 < part.rollout.cpu < part.whole.cpu
        assert part.whole.cpu == pytest.approx(part.rollout.cpu + part.update.cpu)
