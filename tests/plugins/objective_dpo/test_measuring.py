"""The reference's errors, measured before the first update and read back instead of a second copy of the weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from attrs import frozen

from qi_core import DenoiserModule, Dice, Loss, Pair, Pairs, Place, QiError, StoredError
from qi_core.testing import check_component, check_evaluation, fakes
from qi_plugins.objective_dpo.dpo import Dpo
from qi_plugins.objective_dpo.measuring import ReferenceErrors


@frozen(kw_only=True)
class Three:
    """Three pairs, again and again."""

    gives: ClassVar[type] = Pairs

    def build(self, place: Place, multiple: int) -> Any:
        return Repeating()


class Repeating:
    def __init__(self) -> None:
        self.n = 0

    def draw(self, count: int) -> Pairs:
        self.n += count
        return Pairs(items=tuple(pair(n % 3) for n in range(self.n - count, self.n)))


def pair(n: int) -> Pair:
    return Pair(
        key=f"{n}", prompt="abc"[:n], winner=fakes.picture(2, 2 + n, seed=n), loser=fakes.picture(2, 2 + n, seed=9 + n)
    )


ALL = Pairs(items=tuple(map(pair, range(3))))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(device=torch.device("cpu"), dtype=torch.float32, seed=0, folder=tmp_path)


def network(seed: int = 0) -> DenoiserModule:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        return fakes.TinyNetwork(3, 4)


def asks(model: DenoiserModule, objective: Dpo, asked: list[str] | None = None) -> Callable[[Any, Dice], Loss]:
    """As the loop lets a validation ask."""

    @torch.no_grad()
    def loss(batch: Pairs, dice: Dice) -> Loss:
        if asked is not None:
            asked.extend(item.key for item in batch)
        return objective.loss(model, objective.prepare(batch, fakes.models(model), dice), dice)

    return loss


def measure(place: Place, model: DenoiserModule, **settings: Any) -> list[str]:
    """Into errors.jsonl; the keys of pairs that were asked about."""
    path = place.folder / "errors.jsonl"
    asked: list[str] = []
    component = ReferenceErrors(source=Three(), path=path, **{"count": 3, "draws": 2, **settings})
    component.build(place).validate(asks(model, Dpo(reference="stored", errors=path), asked), 0)
    return asked


def test_it_is_a_component_and_an_evaluation(tmp_path: Path) -> None:
    check_component(ReferenceErrors)
    path = tmp_path / "errors.jsonl"
    path.write_text("")
    check_evaluation(ReferenceErrors(source=Three(), path=path, count=3))


def test_a_model_measured_against_its_own_errors_begins_at_ln_2(place: Place) -> None:
    model = network()
    measure(place, model)
    objective = Dpo(reference="stored", errors=place.folder / "errors.jsonl")
    for step in range(4):
        loss = asks(model, objective)(ALL, Dice(0, step))
        assert loss.value.item() == pytest.approx(torch.tensor(2.0).log().item(), rel=1e-3)  # rounding times beta
    other = asks(network(1), objective)(ALL, Dice(0, 0))
    assert other.value.item() != pytest.approx(torch.tensor(2.0).log().item(), rel=1e-2)


def test_every_stored_time_of_a_pair_comes_up(place: Place) -> None:
    model = network()
    measure(place, model)
    objective = Dpo(reference="stored", errors=place.folder / "errors.jsonl")
    seen = {objective.prepare(ALL, fakes.models(model), Dice(0, step)).t[0].item() for step in range(12)}
    assert len(seen) == 2


def test_what_was_measured_before_a_run_was_stopped_is_not_measured_again(place: Place) -> None:
    model, path = network(), place.folder / "errors.jsonl"
    assert measure(place, model) == ["0", "0", "1", "1", "2", "2"]
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:3]) + lines[3][:20])  # killed in the middle of a line
    assert measure(place, model) == ["0", "1", "2", "2"]  # one of the known is checked
    assert path.read_bytes() == whole
    assert measure(place, model) == ["0"]


def test_errors_of_other_weights_are_refused(place: Place) -> None:
    measure(place, network())
    with pytest.raises(QiError, match="measured with other weights or data; delete it"):
        measure(place, network(1))


def test_a_source_with_fewer_pairs_is_told(place: Place) -> None:
    with pytest.raises(QiError, match="the source has 3: set count = 3"):
        measure(place, network(), count=5)


def test_only_the_model_of_step_0_is_measured(place: Place) -> None:
    path = place.folder / "errors.jsonl"
    measure(place, network())
    live = ReferenceErrors(source=Three(), path=path, count=3, draws=2).build(place)
    found = live.validate(asks(network(1), Dpo(reference="stored", errors=path)), 10)
    assert found.scalars == {"pairs": 3.0, "errors": 6.0}


def test_times_that_are_drawn_otherwise_now_are_refused(place: Place) -> None:
    model = network()
    measure(place, model)
    objective = Dpo(reference="stored", errors=place.folder / "errors.jsonl", shift=3.0)
    with pytest.raises(QiError, match=r"objective\.times, mean, std or shift"):
        asks(model, objective)(ALL, Dice(0, 0))


def test_a_pair_without_stored_errors_is_refused_and_one_that_brings_its_own_is_not(place: Place) -> None:
    objective, model = Dpo(reference="stored"), network()
    with pytest.raises(QiError, match="pair '0': no error of the reference is stored"):
        asks(model, objective)(ALL, Dice(0, 0))
    own = Pair(key="k", prompt="", winner=ALL.items[0].winner, loser=ALL.items[0].loser, stored=(stored(),))
    prepared = objective.prepare(Pairs(items=(own,)), fakes.models(model), Dice(0, 0))
    assert prepared.reference.tolist() == [1.5, 2.5]
    with pytest.raises(QiError, match=r"with train\.evaluate_first = true"):
        asks(model, Dpo(reference="stored", errors=place.folder / "gone.jsonl"))(ALL, Dice(0, 0))


def stored() -> StoredError:
    return StoredError(seed=3, winner=1.5, loser=2.5)


def test_a_line_that_is_none_of_ours_is_told_by_its_number(place: Place) -> None:
    path = place.folder / "errors.jsonl"
    path.write_text(json.dumps({"key": "0", "seed": 1, "winner": 1.0}) + "\n")
    with pytest.raises(QiError, match=r"errors\.jsonl:1: no error of a reference"):
        asks(network(), Dpo(reference="stored", errors=path))(ALL, Dice(0, 0))
