"""Advantages against formulas worked out by hand."""

from __future__ import annotations

import math

import pytest

from qi_plugins.source_rollouts.advantages import advantages, ties

GROUPS = (0, 0, 0, 1, 1, 1)
ONE = [[1.0, 2.0, 3.0, 10.0, 10.0, 40.0]]
"""Means 2 and 20, deviations sqrt(2/3) and sqrt(200)."""
SPREADS = (math.sqrt(2 / 3), math.sqrt(200))
EVERYTHING = math.sqrt(sum((r - 11) ** 2 for r in ONE[0]) / 6)


def test_group_is_equation_4() -> None:
    found = advantages("group", ONE, [1.0], GROUPS, eps=0.0)
    a, b = SPREADS
    assert found == pytest.approx([-1 / a, 0, 1 / a, -10 / b, -10 / b, 20 / b])


def test_eps_is_added_to_the_deviation() -> None:
    assert advantages("group", ONE, [1.0], GROUPS, eps=0.5)[0] == pytest.approx(-1 / (SPREADS[0] + 0.5))


def test_global_divides_by_the_deviation_of_all() -> None:
    found = advantages("global", ONE, [1.0], GROUPS, eps=0.0)
    assert found == pytest.approx([value / EVERYTHING for value in (-1, 0, 1, -10, -10, 20)])


def test_mean_divides_by_nothing() -> None:
    assert advantages("mean", ONE, [1.0], GROUPS, eps=0.0) == [-1, 0, 1, -10, -10, 20]


def test_rewards_are_added_up_with_their_weights_first() -> None:
    two = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    assert advantages("mean", two, [1.0, 3.0], (0, 0, 0), eps=0.0) == pytest.approx([1 - 4 / 3, 3 - 4 / 3, -4 / 3])


def test_per_reward_does_not_let_a_large_scale_drown_another_reward() -> None:
    two = [[0.0, 1.0, 0.0, 1.0], [0.0, 0.0, 1000.0, 1000.0]]
    found = advantages("per-reward", two, [1.0, 1.0], (0, 0, 0, 0), eps=0.0)
    # Each reward becomes -1 or 1, so sums are -2, 0, 0, 2 with deviation sqrt(2).
    assert found == pytest.approx([-math.sqrt(2), 0, 0, math.sqrt(2)])
    drowned = advantages("group", two, [1.0, 1.0], (0, 0, 0, 0), eps=0.0)
    assert drowned[1] == pytest.approx(drowned[0], rel=0.01)


@pytest.mark.parametrize("kind", ["group", "global", "mean", "per-reward"])
def test_the_mean_of_each_group_is_0(kind: str) -> None:
    two = [[0.1, 0.7, 0.2, 0.5, 0.9, 0.3], [3.0, 1.0, 2.0, 9.0, 7.0, 8.0]]
    found = advantages(kind, two, [0.3, 0.7], GROUPS, eps=1e-4)  # type: ignore[arg-type]
    assert sum(found[:3]) == pytest.approx(0, abs=1e-12)
    assert sum(found[3:]) == pytest.approx(0, abs=1e-12)
    assert any(found)


@pytest.mark.parametrize("kind", ["group", "global", "mean", "per-reward"])
def test_equal_rewards_give_0_exactly(kind: str) -> None:
    found = advantages(kind, [[0.1] * 3 + [0.1, 0.2, 0.3]], [0.7], GROUPS, eps=0.0)  # type: ignore[arg-type]
    assert found[:3] == [0.0, 0.0, 0.0]
    assert advantages(kind, [[0.1] * 6], [0.7], GROUPS, eps=0.0) == [0.0] * 6  # type: ignore[arg-type]


def test_a_tie_is_a_group_without_differences() -> None:
    one, other = [1.0, 1.0, 0.0, 2.0, 5.0], [1.0, 1.0, 2.0, 0.0, 7.0]
    groups = (0, 0, 1, 1, 2)
    assert ties([one, other], [1.0, 1.0], groups, apart=False) == {0, 1, 2}, "0 + 2 = 2 + 0, and one alone is no group"
    assert ties([one, other], [1.0, 1.0], groups, apart=True) == {0, 2}
