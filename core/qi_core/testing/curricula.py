"""The contract of curricula."""

from __future__ import annotations

import math
from itertools import pairwise

from qi_core.curriculum import CurriculumComponent, Outset, due
from qi_core.testing.contract import contract


def check_curriculum(component: CurriculumComponent, *, outset: Outset | None = None, steps: int = 200) -> None:
    """``qi_core.curriculum``: what holds at a step follows from the settings alone, and any step may be asked for.

    ``outset``: what the recipe says before any stage, where its stages speak of parts or times. ``steps``: so many that
    all its stages have their turn.
    """
    told = contract(component, "qi_core.curriculum.Curriculum")
    outset = outset or Outset()
    with told.leaves_random_numbers_alone("build or at"):
        first, second = component.build(outset), component.build(outset)
        states = [first.at(step) for step in range(steps)]
        backward = [second.at(step) for step in reversed(range(steps))][::-1]
    told.holds(states == backward, "at(step) depends on what was asked before, or on who built it")
    spans = first.spans()
    told.holds(bool(spans) and spans[0].begin == 0, "its first stage does not begin at step 0")
    for span, after in pairwise(spans):
        told.holds(span.end == after.begin, f"stage {after.stage!r} does not begin where {span.stage!r} ends")
    moves = list(first.moves())
    told.holds(moves == sorted(set(moves)), "moves() are not in order, or one stands there twice")
    for step, state in enumerate(states):
        told.holds(state.begun <= step, f"at({step}) tells of a stage that begins at {state.begun}")
        told.holds(
            state.stage in {span.stage for span in spans}, f"at({step}) tells of a stage that spans() does not know"
        )
        told.holds(
            state.lr >= 0 and math.isfinite(state.lr) and state.tokens >= 0, f"at({step}) has no rate, or no batch"
        )
        told.holds(
            not state.mixture or sum(state.mixture.values()) == 1, f"the shares of at({step}) are not 1 together"
        )
        told.holds(
            step == 0 or not due(first, step) or step in moves,
            f"settings change at step {step}, which moves() does not name",
        )
