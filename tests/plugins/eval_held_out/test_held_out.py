"""held-out: the objective's own figures on data that is not trained on, the same data and dice every time."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from attrs import frozen

from qi_core import DenoiserModule, Dice, Loss, Place, Rollouts, Samples
from qi_core.testing import check_component, check_evaluation, fakes
from qi_plugins.eval_held_out.component import HeldOut
from qi_plugins.objective_flow.flow_matching import FlowMatching
from support.small_run import RECIPE, here, losses, write_recipe

DATA = fakes.samples(10)


@frozen(kw_only=True)
class Ten:
    """Ten samples, in order, again and again."""

    gives: ClassVar[type] = Samples

    def build(self, place: Place, multiple: int) -> Any:
        return self

    def draw(self, count: int) -> Samples:
        return Samples(items=tuple(DATA.items[n % 10] for n in range(count)))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(device=torch.device("cpu"), dtype=torch.float32, seed=3, folder=tmp_path)


def asks(model: DenoiserModule, seen: list[Dice] | None = None) -> Callable[[Any, Dice], Loss]:
    objective, models = FlowMatching(caption_dropout=0), fakes.models(model)

    @torch.no_grad()
    def loss(batch: Samples, dice: Dice) -> Loss:
        if seen is not None:
            seen.append(dice)
        return objective.loss(model, objective.prepare(batch, models, dice), dice)

    return loss


def figures(place: Place, step: int = 0, **settings: Any) -> dict[str, float]:
    live = HeldOut(source=Ten(), **{"count": 10, "batch": 4, **settings}).build(place)
    assert live.gives is Samples
    return dict(live.validate(asks(fakes.network(place)), step).scalars)


def test_it_keeps_the_contracts_of_components_and_evaluations() -> None:
    check_component(HeldOut)
    check_evaluation(HeldOut(source=Ten(), count=7, batch=3))


def test_its_loss_is_the_objective_s_with_every_part(place: Place) -> None:
    whole = asks(fakes.network(place))(DATA, Dice(3, -1))
    found = figures(place)
    assert found.pop("loss") == pytest.approx(whole.value.item(), rel=1e-5)
    wanted = {name: mean.total.item() / mean.count.item() for name, mean in whole.parts.items() if mean.count}
    assert found == pytest.approx(wanted, rel=1e-5)
    assert "loss_t/0.4-0.6" in found


def test_the_size_of_batches_changes_nothing(place: Place) -> None:
    assert figures(place, batch=10) == pytest.approx(figures(place, batch=3), rel=1e-5)


def test_every_evaluation_rolls_the_same_dice_and_no_step_of_the_run_does(place: Place) -> None:
    """Otherwise figures would move though the model does not."""
    assert figures(place, step=0) == figures(place, step=70)
    seen: list[Dice] = []
    HeldOut(source=Ten(), count=10, batch=4).build(place).validate(asks(fakes.network(place), seen), 5)
    assert all(dice.step < 0 for dice in seen)


def test_more_than_there_is_comes_again_with_other_times_and_noises(place: Place) -> None:
    assert figures(place, count=20)["loss"] != pytest.approx(figures(place, count=10)["loss"], rel=1e-6)


def test_a_part_that_nothing_fell_into_is_no_figure(place: Place) -> None:
    """The accuracy of dpo while the model is its reference."""
    live = HeldOut(source=Ten(), count=1).build(place)
    found = live.validate(asks(fakes.network(place)), 0).scalars
    assert sum(name.startswith("loss_t/") for name in found) == 1


def test_a_source_that_draws_with_the_model_is_refused() -> None:
    @frozen(kw_only=True)
    class Drawing(Ten):
        gives: ClassVar[type] = Rollouts

    with pytest.raises(ValueError, match="Drawing draws with the model; wanted data that lies there"):
        HeldOut(source=Drawing())


EVALUATION = """
[[evaluation]]
name = "held-out"
every = 10
count = 12
[evaluation.source]
name = "rendered-text"
split = "held-out"
height = 16
width = 32
lengths = [1, 2]
"""


def told(folder: Path, name: str) -> list[dict[str, float]]:
    """Figures of an evaluation, in order, from the run's log."""
    lines = map(json.loads, (folder / "log.jsonl").read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line["event"] == "evaluated" and line["name"] == name]


def test_a_run_tells_its_validation_loss_and_computes_the_same_without_it(tmp_path: Path) -> None:
    """Asked for by users of other trainers (musubi-tuner #218). It must not touch the run."""
    recipe = write_recipe(tmp_path, RECIPE + EVALUATION)
    short = ("--set", "train.steps=20")
    here("run", recipe, "--folder", tmp_path / "with", *short)
    here("run", write_recipe(tmp_path), "--folder", tmp_path / "without", *short)
    told_losses = told(tmp_path / "with", "held-out")
    assert [line["step"] for line in told_losses] == [10, 20]
    assert losses(tmp_path / "with") == losses(tmp_path / "without")
