"""What a live run can take, and what it can't."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from attrs import evolve

from qi_core import QiError
from qi_core.run import Run
from qi_plugins.objective_grpo.nft import Nft
from qi_registry import specs
from qi_registry.changer import Changer, _refuse_other_shadows
from qi_registry.curricula import Unfolding
from qi_registry.reader import loads
from support.small_run import RECIPE


@pytest.fixture
def changer() -> Changer:
    place: Any = SimpleNamespace(folder=Path("/none"), multiple=8)
    return Changer(Unfolding.of(loads(RECIPE, where="a recipe")), place)


@pytest.fixture
def drawing() -> Run:
    """Its source draws with the model and follows it: another one would follow nobody."""
    run: Any = SimpleNamespace(spec=None, encoders=None, position={}, optimizer=SimpleNamespace())
    return run  # type: ignore[no-any-return]


def test_a_source_that_draws_stays_and_its_objective_may_change(changer: Changer, drawing: Run) -> None:
    with pytest.raises(QiError, match=r"source: RenderedText draws its samples itself, so it can't be changed"):
        changer(drawing, "source.lengths=[1, 3]")
    changer(drawing, "objective.caption_dropout=0.5").apply()
    objective: Any = drawing.objective
    assert objective.caption_dropout == 0.5


@pytest.mark.parametrize(
    "line", ["data.engine='local'", "data.engine.processes=3", "data.portion=4", "data={portion=4}"]
)
def test_what_a_run_has_from_its_start_is_refused(changer: Changer, drawing: Run, line: str) -> None:
    with pytest.raises(QiError, match=r"data.*: can't be changed while a run goes on .*resume it with --set"):
        changer(drawing, line)


STAGES = """
[curriculum]
name = "stages"
[[curriculum.stages]]
name = "first"
steps = 5
[[curriculum.stages]]
name = "longer"
set = ["source.lengths=[3, 4]"]
"""


def test_a_stage_that_would_change_a_source_that_draws_is_told_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place: Any = SimpleNamespace(folder=tmp_path, multiple=8, seed=0)
    changer = Changer(Unfolding.of(loads(RECIPE + STAGES, where="a recipe")), place)
    changer.rehearse()
    monkeypatch.setattr(specs, "source", lambda recipe, place: object())
    with pytest.raises(QiError, match="stage 'longer', which begins at step 5: source: RenderedText draws its samples"):
        changer.rehearse()


def test_an_objective_that_needs_other_copies_of_the_weights_is_refused() -> None:
    recipe = loads(RECIPE, where="a recipe")
    with pytest.raises(QiError, match=r"Nft needs other copies of the weights \(.*\) than this run keeps"):
        _refuse_other_shadows(recipe, evolve(recipe, objective=Nft()))
